"""Judges that are asked about candidates: what they say is a signal, and is asked for once."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.judges.tiny_judges import preprocessing_of, save_albef, save_blip, save_blip2, save_clip
from tests.judges.tiny_vlms import save_llava
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairDataset
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.judges.base import Judge, JudgeConfig, JudgeInputs
from truepair.judges.open import open_judge
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Gallery
from truepair.mining.signals.judges import asked_judge, open_asked, signal_name, with_judge
from truepair.models.open import open_model

SAVE = {"albef": save_albef, "blip": save_blip, "blip2": save_blip2, "dual": save_clip, "vlm": save_llava}


def candidates_of(table: PairTable) -> Candidates:
    """All undeclared cells of a table, in an order of chance."""
    gallery = Gallery.of_table(table)
    pictures, captions = np.divmod(np.arange(len(gallery) * len(gallery.texts)), len(gallery.texts))
    apart = ~gallery.is_declared(pictures, captions)
    pictures, captions = pictures[apart], captions[apart]
    prior = np.random.default_rng(0).normal(size=len(pictures)).astype(np.float32)
    signals = np.zeros((len(pictures), 1), np.float32)
    return Candidates.of_gallery(gallery, pictures, captions, signals, ["captions/best"], prior)


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    """Five pictures, two of which share a caption."""
    lines = ["image,caption"]
    for number, caption in enumerate(["a red square", "green", "a blue square", "a red square", "white"]):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{caption}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return open_pairs(tmp_path / "pairs.csv")


class Counted:
    """Notes what a judge is asked; it may be interrupted after some questions."""

    def __init__(self, judge: Judge, limit: int | None = None) -> None:
        self.judge, self.limit = judge, limit
        self.name, self.fingerprint, self.repeatable = judge.name, judge.fingerprint, True
        self.asked: list[tuple[int, str]] = []

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        if self.limit is not None and len(self.asked) + len(images) > self.limit:
            raise KeyboardInterrupt
        rows = batch.source_index[images].tolist()
        self.asked += [(row, batch.captions[text]) for row, text in zip(rows, texts.tolist(), strict=True)]
        return self.judge.score(batch, images, texts)


def silent(done: int, total: int) -> None:
    """No progress bar."""


@pytest.mark.parametrize("kind", SAVE)
def test_the_signal_is_the_log_odds_of_the_judge_of_the_strongest_cells(
    kind: str, table: PairTable, tmp_path: Path
) -> None:
    folder = SAVE[kind](tmp_path / "judge", table)
    config = asked_judge(f"{kind}:{folder}")
    found = candidates_of(table)
    judge = open_asked(config, table, "cpu")
    asked, new = with_judge(found, config, judge, table, 7, tmp_path / "cache", silent)
    assert new == 7 and asked.names == ("captions/best", signal_name(config))
    family = {"albef": "itm", "blip": "itm", "blip2": "itm"}.get(kind, kind)
    column = asked.signals[:, asked.columns(family)[0]]
    assert np.isnan(column[7:]).all() and np.isfinite(column[:7]).all() and column[:7].std() > 1e-5
    dataset = PairDataset(table, captions="first")
    for cell in range(7):  # slowly: each alone
        row, text = int(found.rows[found.pictures[cell]]), found.texts[found.captions[cell]]
        if kind == "dual":
            model = open_model(folder)
            pixels = model.preprocessing.images()(table.image(row))[None]
            ids, mask = model.preprocessing.collator().encode([text])
            with torch.inference_mode():
                both = model.model.encode_images(pixels).features, model.model.encode_texts(ids, mask).features
            expected = float((both[0] * both[1]).sum())
        else:
            batch = preprocessing_of(table).collator()([dataset[row]])
            batch.captions[0] = text
            plain = open_judge(JudgeConfig(kind=kind, checkpoint=str(folder), memory=False), JudgeInputs(table=table))
            expected = float(plain.score(batch, torch.tensor([0]), torch.tensor([0])).double().logit())
        assert column[cell] == pytest.approx(expected, abs=2e-4)
    saved = tmp_path / "mined"
    saved.mkdir()
    asked.save(saved)
    assert Candidates.load(saved).names == asked.names


def test_only_what_is_new_is_asked(table: PairTable, tmp_path: Path) -> None:
    config = asked_judge(f"blip:{save_blip(tmp_path / 'judge', table)}")
    found, cache = candidates_of(table), tmp_path / "cache"
    judge = Counted(open_asked(config, table, "cpu"))
    first, new = with_judge(found, config, judge, table, 5, cache, silent)
    assert new == len(judge.asked) == 5
    second, new = with_judge(found, config, judge, table, 9, cache, silent)
    assert new == 4 and len(judge.asked) == len(set(judge.asked)) == 9
    again, new = with_judge(found, config, judge, table, 9, cache, silent)
    assert new == 0 and len(judge.asked) == 9
    np.testing.assert_array_equal(again.signals, second.signals)
    np.testing.assert_array_equal(first.signals[:5], second.signals[:5])
    other = asked_judge(f"blip2:{save_blip2(tmp_path / 'other', table)}")
    _, new = with_judge(found, other, open_asked(other, table, "cpu"), table, 9, cache, silent)
    assert new == 9  # another judge, other verdicts


def test_a_picture_that_was_replaced_is_asked_about_again(table: PairTable, tmp_path: Path) -> None:
    config = asked_judge(f"blip:{save_blip(tmp_path / 'judge', table)}")
    found, cache = candidates_of(table), tmp_path / "cache"
    with_judge(found, config, open_asked(config, table, "cpu"), table, 100, cache, silent)
    picture = int(found.pictures[0])
    place = Path(str(found.paths[picture]))
    Image.new("RGB", (16, 16), "white").save(place)
    os.utime(place, ns=(1, 1))
    _, new = with_judge(found, config, open_asked(config, table, "cpu"), table, 100, cache, silent)
    assert new == int((found.pictures == picture).sum())


def test_what_was_said_before_an_interruption_is_kept(
    table: PairTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.mining.signals.judges._CELLS", 2)
    config = asked_judge(f"blip:{save_blip(tmp_path / 'judge', table)}")
    found, cache = candidates_of(table), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        with_judge(found, config, Counted(open_asked(config, table, "cpu"), limit=6), table, 10, cache, silent)
    shown: list[tuple[int, int]] = []
    judge = Counted(open_asked(config, table, "cpu"))
    _, new = with_judge(found, config, judge, table, 10, cache, lambda done, total: shown.append((done, total)))
    assert new == len(judge.asked) == 4 and shown == [(0, 4), (2, 4), (4, 4)]
    rows = [row for row, _ in judge.asked]
    assert rows == sorted(rows)  # a picture's cells together


def test_judges_that_cannot_be_asked_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no judge 'vln' can be asked \(did you mean 'vlm'\?\); give KIND:NAME"):
        asked_judge("vln:x")
    with pytest.raises(ConfigError, match="'evidence' can be asked"):
        asked_judge("evidence:x")
    for word in ("vlm", "vlm:"):
        with pytest.raises(ConfigError, match="give vlm:NAME, a folder or a name on the hub"):
            asked_judge(word)
