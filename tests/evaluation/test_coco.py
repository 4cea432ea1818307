"""Our figures against those of the eccv-caption package, on noisy scores of the whole test split."""

import importlib.util
import sys

import pytest
import torch

from truepair.errors import ConfigError, DataError
from truepair.evaluation.coco import CocoGallery, CocoTruth, CocoTruths, load_coco_truths

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("eccv_caption") is None, reason="needs eccv-caption: pip install 'truepair[eccv]'"
)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(ConfigError, match=r"pip install 'truepair\[eccv\]'"):
        load_coco_truths()


def tiny_truths():
    """Four images with one caption each, in two folds; captions 10 and 11 are true of both images 1 and 2."""
    own = {1: [10], 2: [11], 3: [12], 4: [13]}
    coco = CocoTruth(own, {10: [1], 11: [2], 12: [3], 13: [4]})
    crossed = CocoTruth({1: [10, 11], 2: [11, 10]}, {10: [1, 2]})
    return CocoTruths(coco=coco, cxc=crossed, eccv=crossed, folds=((10, 11), (12, 13)))


def test_small_case_by_hand():
    scores = torch.tensor(  # columns: captions 13, 12, 11, 10; rows: images 1, 2, 3, 4
        [[0.0, 0.0, 0.9, 0.8], [0.0, 0.0, 0.7, 0.9], [0.9, 0.8, 0.0, 0.0], [0.8, 0.9, 0.0, 0.0]]
    )
    gallery = CocoGallery([1, 2, 3, 4], [13, 12, 11, 10])
    report = gallery.evaluate(scores, tiny_truths(), resamples=0)
    assert report.coco_5k.i2t.recall_at_1.value == 0 and report.coco_5k.i2t.recall_at_5.value == 1
    assert report.cxc.i2t.recall_at_1.value == report.cxc.t2i.recall_at_1.value == 1
    assert report.eccv.i2t.map_at_r.value == 1 and report.eccv.i2t.queries == 2 and report.eccv.i2t.left_out == 2
    assert report.recall_1k(1) == (0, 0) and report.recall_1k(5) == (1, 1)
    assert [fold.i2t.queries for fold in report.folds_1k] == [2, 2]


def test_gaps_are_errors():
    with pytest.raises(DataError, match="twice"):
        CocoGallery([1, 1], [10])
    with pytest.raises(DataError, match="id 4 of the truth was not scored"):
        CocoGallery([1, 2, 3], [10, 11, 12, 13]).evaluate(torch.rand(3, 4), tiny_truths())
    with pytest.raises(DataError, match="1 right candidates of the truth were not scored"):
        CocoGallery([1, 2, 3, 4], [10, 11, 12]).evaluate(torch.rand(4, 3), tiny_truths())


@needs_package
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:failed to import `ujson`")
def test_equals_the_package():
    from eccv_caption import Metrics

    package = Metrics()
    truths = load_coco_truths()
    images = sorted({image for owners in truths.coco.t2i.values() for image in owners})
    captions = [caption for fold in truths.folds for caption in fold]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(images), 24, generator=generator)
    row = {image: number for number, image in enumerate(images)}
    owner = torch.tensor([row[truths.coco.t2i[caption][0]] for caption in captions])
    noisy = features[owner] + 0.8 * torch.randn(len(captions), 24, generator=generator)
    scores = features @ noisy.T  # [5000, 25000]
    by_image = dict(zip(images, torch.tensor(captions)[scores.topk(800, dim=1).indices].tolist(), strict=True))
    by_caption = dict(zip(captions, torch.tensor(images)[scores.T.topk(300, dim=1).indices].tolist(), strict=True))
    whole = package.eccv_gts["i2t"]
    package.eccv_gts["i2t"] = {image: [c for c in right if c in truths.coco.t2i] for image, right in whole.items()}
    assert sum(map(len, whole.values())) - sum(map(len, package.eccv_gts["i2t"].values())) == 2  # not in the split
    wanted = ("coco_5k_recalls", "coco_1k_recalls", "cxc_recalls", "eccv_r1", "eccv_map_at_r", "eccv_rprecision")
    expected = package.compute_all_metrics(by_image, by_caption, target_metrics=wanted, verbose=False)
    report = CocoGallery(images, captions).evaluate(scores, truths, resamples=0)
    for way, direction in enumerate(("i2t", "t2i")):
        for depth in (1, 5, 10):
            name = f"recall_at_{depth}"
            for ours, theirs in ((report.coco_5k, "coco_5k"), (report.cxc, "cxc")):
                found = getattr(getattr(ours, direction), name).value
                assert found == pytest.approx(expected[f"{theirs}_r{depth}"][direction]), (theirs, direction, depth)
            assert report.recall_1k(depth)[way] == pytest.approx(expected[f"coco_1k_r{depth}"][direction])
        eccv = getattr(report.eccv, direction)
        assert eccv.recall_at_1.value == pytest.approx(expected["eccv_r1"][direction])
        assert eccv.map_at_r.value == pytest.approx(expected["eccv_map_at_r"][direction])
        assert eccv.r_precision.value == pytest.approx(expected["eccv_rprecision"][direction])
