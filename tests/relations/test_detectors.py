import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import ConfigError
from truepair.relations import detectors
from truepair.relations.detectors import (
    Detector,
    GuideSimilarity,
    Judged,
    LowWeight,
    MomentumSimilarity,
    RandomPairs,
    SameCaption,
    SameImage,
    Signals,
)
from truepair.relations.ledger import VerdictIndex
from truepair.relations.pairs import PairSet, same_pair


def cells(pairs: PairSet) -> list[tuple[int, int]]:
    return sorted(zip(pairs.rows.tolist(), pairs.columns.tolist(), strict=True))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 2**20))
def test_same_image_and_same_caption(ids: list[int], seed: int) -> None:
    size = len(ids)
    keys = torch.randint(0, 4, (size,), generator=torch.Generator().manual_seed(seed))
    signals = Signals(image_ids=torch.tensor(ids), caption_ids=torch.arange(size), caption_keys=keys)
    for detector, values in ((SameImage(), ids), (SameCaption(), keys.tolist())):
        found = detector.find(signals)
        wanted = [(i, j) for i in range(size) for j in range(size) if i != j and values[i] == values[j]]
        assert cells(found) == wanted
        assert found.by_row is found.by_column is None and (found.values == 1).all()
    both = SameImage().find(signals).mask() | SameCaption().find(signals).mask()
    assert torch.equal(both | torch.eye(size, dtype=torch.bool), same_pair(signals.image_ids, keys))


@pytest.mark.parametrize("detector_class", [GuideSimilarity, MomentumSimilarity])
@pytest.mark.parametrize(("strategy", "margin"), [("absolute", 0.1), ("absolute", 0.02), ("relative", 0.2)])
def test_similarity_margin(
    detector_class: type[GuideSimilarity], strategy: str, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "_CHUNK", 5)
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(13, 3, generator=generator), dim=1) for _ in range(2))
    kind = detector_class.name
    signals = Signals(image_ids=torch.arange(13), caption_ids=torch.arange(13), **{kind: (images, texts)})
    found = detector_class(margin, strategy).find(signals)
    similarity = images @ texts.T
    own = similarity.diagonal()
    bar = own - margin if strategy == "absolute" else own * (1 - margin)
    by_image, by_text = torch.zeros(2, 13, 13, dtype=torch.bool)
    by_image[found.rows, found.columns] = found.by_row
    by_text[found.rows, found.columns] = found.by_column
    assert torch.equal(by_image, similarity > bar[:, None])
    assert torch.equal(by_text, similarity > bar[None, :])
    torch.testing.assert_close(found.values, similarity[found.rows, found.columns])


def test_judged_scores_within_bounds() -> None:
    scores = torch.tensor([0.1, 0.5, 0.79, 0.8, 1.0])
    judged = PairSet(torch.arange(5), torch.tensor([1, 2, 3, 4, 0]), scores, (5, 5))
    signals = Signals(image_ids=torch.arange(5), caption_ids=torch.arange(5), judged=judged)
    assert cells(Judged("match", 0.5, 0.8).find(signals)) == [(3, 4), (4, 0)]
    assert cells(Judged("doubtful", 0.5, 0.8).find(signals)) == [(1, 2), (2, 3)]


@settings(max_examples=80)
@given(st.integers(0, 2**20), st.integers(0, 25), st.integers(1, 7))
def test_recorded_verdicts_of_a_batch(seed: int, recorded: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    images, captions = rng.integers(0, 5, recorded), rng.integers(0, 5, recorded)
    scores = rng.random(recorded).astype(np.float32)
    index = VerdictIndex(images, captions, scores)
    latest = dict(zip(zip(images.tolist(), captions.tolist(), strict=True), scores.tolist(), strict=True))
    assert len(index) == len(latest)
    image_ids = torch.from_numpy(rng.integers(0, 6, size))
    caption_ids = torch.from_numpy(rng.integers(0, 6, size))
    found = index.within(image_ids, caption_ids)
    got = dict(
        zip(
            zip(found.rows.tolist(), found.columns.tolist(), strict=True),
            found.values.tolist(),
            strict=True,
        )
    )
    wanted = {
        (i, j): latest[int(image_ids[i]), int(caption_ids[j])]
        for i in range(size)
        for j in range(size)
        if (int(image_ids[i]), int(caption_ids[j])) in latest
    }
    assert got == wanted and len(found) == len(wanted)


@pytest.mark.parametrize("detector", [SameCaption(), GuideSimilarity(), MomentumSimilarity(), Judged()])
def test_missing_evidence_says_so(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=detector.name):
        detector.find(Signals(image_ids=torch.arange(2), caption_ids=torch.arange(2)))


def test_wrong_strategy_says_so() -> None:
    with pytest.raises(ConfigError, match=r"guide\.strategy"):
        GuideSimilarity(0.1, "percent")


def test_evidence_of_another_batch_says_so() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        Signals(image_ids=torch.arange(2), caption_ids=torch.arange(3))
    with pytest.raises(ValueError, match="judged"):
        Signals(image_ids=torch.arange(2), caption_ids=torch.arange(2), judged=PairSet.diagonal(3, 3))


@pytest.mark.parametrize(("compare", "side"), [("images", 0), ("texts", 1)])
def test_a_guide_may_compare_within_a_modality(compare: str, side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    features = [F.normalize(torch.randn(9, width, generator=generator), dim=1) for width in (4, 3)]
    signals = Signals(image_ids=torch.arange(9), caption_ids=torch.arange(9), guide=(features[0], features[1]))
    found = GuideSimilarity(0.4, "absolute", compare).find(signals)
    similarity = features[side] @ features[side].T
    wanted = [(i, j) for i in range(9) for j in range(9) if similarity[i, j] > similarity[i, i] - 0.4 or i == j]
    assert cells(found) == wanted and len(wanted) > 9
    with pytest.raises(ConfigError, match=r"guide\.compare is 'both'; use 'across', 'images' or 'texts'"):
        GuideSimilarity(0.4, "absolute", "both")


def test_low_weights_are_found_by_the_side_that_has_them() -> None:
    by_image = torch.tensor([[2.0, 0.1, 0.5], [1.5, 2.0, 0.2], [0.9, 0.3, 2.0]])
    by_text = torch.tensor([[2.0, 0.9, 0.5], [0.2, 2.0, 0.9], [0.9, 0.3, 2.0]])
    signals = Signals(image_ids=torch.arange(3), caption_ids=torch.arange(3), weights=(by_image, by_text))
    found = LowWeight(0.3).find(signals)
    assert cells(found) == [(0, 1), (1, 0), (1, 2)]
    assert found.by_row.tolist() == [True, False, True] and found.by_column.tolist() == [False, True, False]
    torch.testing.assert_close(found.values, torch.tensor([0.9, 0.8, 0.8]))


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3, 1.0])
def test_random_pairs_have_their_rate_and_stay_the_same(rate: float) -> None:
    ids = torch.randint(0, 2**62, (400,), generator=torch.Generator().manual_seed(3))
    signals = Signals(image_ids=ids, caption_ids=ids + 1)
    found = RandomPairs(rate).find(signals)
    assert len(found) / 400**2 == pytest.approx(rate, abs=0.003)
    some = torch.arange(0, 400, 5)
    part = RandomPairs(rate).find(Signals(image_ids=ids[some], caption_ids=ids[some] + 1))
    assert torch.equal(part.mask(), found.mask()[some][:, some])


def test_a_rate_beyond_one_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"random\.rate is 1\.5; use a number from 0 to 1"):
        RandomPairs(1.5)
