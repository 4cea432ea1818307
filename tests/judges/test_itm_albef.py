import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.judges.tiny_judges import preprocessing_of, save_albef
from truepair.data.images import BadImageError
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairDataset
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform, build_transform
from truepair.errors import CheckpointError, ConfigError
from truepair.judges.base import JudgeConfig, JudgeInputs, PlainImages, PlainStates
from truepair.judges.itm import AlbefJudge
from truepair.judges.memory import MemorisedJudge
from truepair.judges.open import open_judge
from truepair.models.checkpoints.load import load_albef
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.encoders.frozen_images import ImageStates, cache_image_states

IMAGES, TEXTS = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([2, 3, 0, 4, 2])


@pytest.fixture(scope="module")
def table(squares: Path) -> PairTable:
    return open_pairs(squares / "pairs.jsonl")


@pytest.fixture(scope="module", params=[False, True], ids=["fused", "with product"])
def folder(table: PairTable, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return save_albef(tmp_path_factory.mktemp("judge"), table, itm_product=request.param)


def batch_of(table: PairTable, preprocessing: OwnPreprocessing, *, train: bool) -> PairBatch:
    dataset = PairDataset(table, build_transform(preprocessing.transform, train=train), captions="first")
    return preprocessing.collator()([dataset[row] for row in (4, 11, 30, 7, 21)])


def one_by_one(folder: Path, batch: PairBatch) -> torch.Tensor:
    """The model's own forward pass on one pair after the other."""
    model, scores = load_albef(folder).eval(), []
    for image, text in zip(IMAGES.tolist(), TEXTS.tolist(), strict=True):
        ids, mask = batch.input_ids[text : text + 1], batch.attention_mask[text : text + 1]
        assert batch.pixel_values is not None
        logits = model(batch.pixel_values[image : image + 1], ids, mask).itm_logits
        scores.append(logits.softmax(dim=1)[0, 1])
    return torch.stack(scores).detach()


@pytest.mark.parametrize("pairs_at_once", [2, 1024])
def test_the_batch_view_scores_the_students_inputs(table: PairTable, folder: Path, pairs_at_once: int) -> None:
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    config = JudgeConfig(checkpoint=str(folder), view="batch", pairs_at_once=pairs_at_once)
    judge = open_judge(config, run)
    assert isinstance(judge, AlbefJudge) and not judge.repeatable
    batch = batch_of(table, run.preprocessing, train=True)
    scores = judge.score(batch, IMAGES, TEXTS)
    torch.testing.assert_close(scores, one_by_one(folder, batch))
    assert not scores.requires_grad and not scores.is_inference() and scores.std() > 1e-3
    assert judge.score(batch, IMAGES[:0], TEXTS[:0]).shape == (0,)


def test_the_plain_view_sees_past_augmentation_and_tokenization(table: PairTable, folder: Path) -> None:
    own = OwnPreprocessing.load(folder)
    student = preprocessing_of(table, add_sep=False, max_length=5)
    judge = open_judge(JudgeConfig(checkpoint=str(folder)), JudgeInputs(table=table, preprocessing=student))
    assert isinstance(judge, MemorisedJudge)
    scores = judge.score(batch_of(table, student, train=True), IMAGES, TEXTS)
    torch.testing.assert_close(scores, one_by_one(folder, batch_of(table, own, train=False)))
    assert judge.memory.misses == 4  # one pair stood there twice


def test_states_come_from_the_runs_caches_if_the_encoders_are_the_same(
    table: PairTable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, student = OwnPreprocessing.load(folder), load_albef(folder)
    plain = PairDataset(table, build_transform(own.transform, train=False), captions="first")
    captions = [row[0] for row in table.rows["captions"]]
    run = JudgeInputs(
        table=table,
        preprocessing=own,
        model=student,
        image_cache=cache_image_states(student.image_encoder, plain, tmp_path),
        caption_cache=cache_caption_states(student.text_encoder, captions, own.collator().encode, tmp_path),
    )
    config = JudgeConfig(checkpoint=str(folder), memory=False)
    cached, fresh = open_judge(config, run), open_judge(config, replace(run, model=None))
    batch = batch_of(table, own, train=False)
    expected = fresh.score(batch, IMAGES, TEXTS)
    assert cached.fingerprint == fresh.fingerprint

    def unwanted(*_: object) -> None:
        raise AssertionError("the encoders need not run")

    monkeypatch.setattr(type(student.image_encoder), "forward", unwanted)
    monkeypatch.setattr(type(student), "text_states", unwanted)
    torch.testing.assert_close(cached.score(batch, IMAGES, TEXTS), expected, atol=2e-3, rtol=0)
    pooled = open_judge(config, replace(run, pooled=True))  # fusion has nothing to attend to in a mean
    with pytest.raises(AssertionError, match="need not run"):
        pooled.score(batch, IMAGES, TEXTS)
    with torch.no_grad():
        next(student.image_encoder.parameters()).add_(1.0)
    other = open_judge(config, run)
    with pytest.raises(AssertionError, match="need not run"):
        other.score(batch, IMAGES, TEXTS)


def test_kept_states_are_read_in_place_of_images(
    table: PairTable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, student = OwnPreprocessing.load(folder), preprocessing_of(table)

    def keep(encoder: nn.Module, transform: ImageTransform) -> ImageStates:
        return cache_image_states(encoder, PairDataset(table, transform, captions="first"), tmp_path)

    run = JudgeInputs(table=table, preprocessing=student)
    config = JudgeConfig(checkpoint=str(folder), memory=False)
    batch = batch_of(table, own, train=False)
    expected = open_judge(config, run).score(batch, IMAGES, TEXTS)
    judge = open_judge(replace(config, cache_images=True), replace(run, keep_images=keep))
    monkeypatch.setattr(PlainImages, "__call__", lambda *_: pytest.fail("it reads an image"))
    torch.testing.assert_close(judge.score(batch, IMAGES, TEXTS), expected, atol=2e-3, rtol=0)
    with pytest.raises(ConfigError, match="only a training run keeps states; leave it out"):
        open_judge(replace(config, cache_images=True), run)


class _Unread(ImageStates):
    """States of images of which one could not be read."""

    unreadable = {1: "row 1 is no picture"}  # type: ignore[assignment]  # noqa: RUF012


def test_an_image_that_could_not_be_kept_is_not_judged(table: PairTable) -> None:
    images = PlainImages(table, preprocessing_of(table).images())
    kept = _Unread((), torch.arange(3))
    states = PlainStates(nn.Identity(), images, kept)
    with pytest.raises(BadImageError, match="row 1 is no picture"):
        states(torch.tensor([0, 1]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "view"), [("dual", "plain"), ("evidence", "plain"), ("vlm", "plain"), ("albef", "batch")]
)
def test_states_are_kept_where_there_are_any(kind: str, view: str) -> None:
    with pytest.raises(ConfigError, match=f"this judge is '{kind}' with view '{view}'; leave it out"):
        JudgeConfig(checkpoint="any", kind=kind, view=view, cache_images=True)


def test_fingerprints_tell_judges_and_views_apart(table: PairTable, folder: Path, tmp_path: Path) -> None:
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    another = save_albef(tmp_path, table, seed=1)
    judges = [
        open_judge(JudgeConfig(checkpoint=str(path), view=view), run)
        for path, view in ((folder, "plain"), (folder, "batch"), (another, "plain"))
    ]
    assert len({judge.fingerprint for judge in judges}) == 3
    again = open_judge(JudgeConfig(checkpoint=str(folder), view="batch", memory=True), run)
    assert isinstance(again, MemorisedJudge) and again.fingerprint == judges[1].fingerprint


def test_a_model_whose_itm_was_not_trained_is_no_judge(table: PairTable, tmp_path: Path) -> None:
    folder = save_albef(tmp_path, table, itm_trained=False)
    with pytest.raises(CheckpointError, match="did not train ITM"):
        open_judge(JudgeConfig(checkpoint=str(folder)), JudgeInputs(table=table, preprocessing=preprocessing_of(table)))


def test_mistakes_are_named_in_one_line(table: PairTable, folder: Path, tmp_path: Path) -> None:
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table, add_sep=False))
    with pytest.raises(ConfigError, match="differ in their add_sep; set"):
        open_judge(JudgeConfig(checkpoint=str(folder), view="batch"), run)
    transform = replace(run.preprocessing.transform, normalisation="encoder")
    encoder = load_albef(folder).image_encoder
    for student, mistake in (
        ((encoder.pixel_mean, encoder.pixel_std), "differ in their image normalisation"),
        (None, "no image encoder"),
    ):
        own = preprocessing_of(table, transform=transform, statistics=student)
        encoders = JudgeInputs(table=table, preprocessing=own)
        with pytest.raises(ConfigError, match=mistake):
            open_judge(JudgeConfig(checkpoint=str(folder), view="batch"), encoders)
    with pytest.raises(CheckpointError, match=r"no model could be loaded .*: it has no config\.json; give another"):
        open_judge(JudgeConfig(checkpoint=str(tmp_path)), run)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no usable preprocessing\.json"):
        open_judge(JudgeConfig(checkpoint=str(tmp_path)), run)
    with pytest.raises(ConfigError, match="did you mean 'albef'"):
        open_judge(JudgeConfig(checkpoint=str(folder), kind="albeff"), run)
    for fields in ({"view": "crop"}, {"view": "batch", "kind": "blip"}, {"pairs_at_once": 0}, {"least_coverage": 2.0}):
        with pytest.raises(ConfigError):
            JudgeConfig(checkpoint="x", **fields)  # type: ignore[arg-type]
    same = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    judge = open_judge(JudgeConfig(checkpoint=str(folder), view="batch"), same)
    batch = replace(batch_of(table, same.preprocessing, train=False), pixel_values=None)
    with pytest.raises(ConfigError, match="come from a cache; set"):
        judge.score(batch, IMAGES, TEXTS)
