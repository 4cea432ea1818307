"""Labels of candidates from a column of groups."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.mining.signals.test_judges import candidates_of
from truepair.data.open import open_pairs
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.mining.gallery import Gallery
from truepair.mining.group_labels import GroupLabels, by_labels, groups_of_pictures, label_candidates, save_labels

ROWS = [  # picture, caption, sku
    ("a", "red shirt", "1"),
    ("b", "shirt, red", "1"),
    ("c", "red shirt", "2"),
    ("d", "blue hat", "2"),
    ("e", "green sock", None),
    ("f", "green sock", "3"),
    ("a", "a shirt", "1"),
    ("g", "hat", " 3 "),
]


def table_of(rows: list[tuple[str, str, str | None]], folder: Path) -> PairTable:
    lines = []
    for number, (picture, caption, sku) in enumerate(rows):
        if not (folder / f"{picture}.png").exists():
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{picture}.png")
        lines.append(json.dumps({"image": f"{picture}.png", "captions": [caption], "sku": sku, "shelf": str(number)}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return open_pairs(folder / "pairs.jsonl")


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    return table_of(ROWS, tmp_path)


def slowly(picture: str, caption: str) -> bool | None:
    """What the column says of a picture and a caption, by looking at every row."""
    mine = {sku.strip() for name, _, sku in ROWS if name == picture and sku is not None}
    theirs = [sku for _, text, sku in ROWS if text == caption]
    if not mine:
        return None
    if any(sku is not None and sku.strip() in mine for sku in theirs):
        return True
    return None if None in theirs else False


def test_the_same_group_matches_another_does_not_and_no_group_says_nothing(table: PairTable) -> None:
    found = candidates_of(table)
    labels = label_candidates(found, groups_of_pictures(Gallery.of_table(table), "sku"), "sku")
    said = dict(zip(labels.cells.tolist(), labels.matches.tolist(), strict=True))
    answers = []
    for cell in range(len(found)):
        picture = Path(str(found.paths[found.pictures[cell]])).stem
        answers.append(slowly(picture, found.texts[found.captions[cell]]))
        assert said.get(cell) == answers[-1]
    assert {True, False, None} == set(answers)


def test_the_judge_is_fitted_on_them_and_they_stay_what_they_are(table: PairTable, tmp_path: Path) -> None:
    found = candidates_of(table)
    random = np.random.default_rng(1)
    truth = random.random(len(found)) < 0.4
    found.signals[:, 0] = truth + 0.3 * random.normal(size=len(found))
    known = np.arange(0, len(found), 2)
    ordered, labels, fit = by_labels(found, GroupLabels("sku", known, truth[known]))
    assert fit.judge.answers == len(known) and fit.judge.weights[0] > 0
    assert bool((np.diff(ordered.prior) <= 0).all())
    before = {(p, c): t for p, c, t in zip(found.pictures.tolist(), found.captions.tolist(), truth, strict=True)}
    after = np.array([before[cell] for cell in zip(ordered.pictures.tolist(), ordered.captions.tolist(), strict=True)])
    assert len(labels.cells) == len(known) and bool((after[labels.cells] == labels.matches).all())
    assert bool((ordered.prior[labels.cells] == np.where(labels.matches, 8, -8)).all())
    others = np.setdiff1d(np.arange(len(found)), labels.cells)
    assert ordered.prior[others][after[others]].mean() > ordered.prior[others][~after[others]].mean()
    signal = {(p, c): s for p, c, s in zip(found.pictures, found.captions, found.signals[:, 0], strict=True)}
    moved = [signal[cell] for cell in zip(ordered.pictures, ordered.captions, strict=True)]
    np.testing.assert_array_equal(ordered.signals[:, 0], moved)

    save_labels(ordered, labels, tmp_path)
    written = pq.read_table(tmp_path / "labels.parquet")
    assert written["match"].to_pylist() == labels.matches.tolist() and set(written["column"].to_pylist()) == {"sku"}
    assert written["caption"][0].as_py() == ordered.texts[ordered.captions[labels.cells[0]]]


def test_many_labels_are_drawn_from(table: PairTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truepair.mining.group_labels._FITTED", 6)
    found = candidates_of(table)
    labels = GroupLabels("sku", np.arange(len(found)), np.arange(len(found)) % 2 == 0)
    one, _, fit = by_labels(found, labels)
    again, _, _ = by_labels(found, labels)
    assert fit.judge.answers == 6 and one.fingerprint == again.fingerprint


def test_columns_that_cannot_be_groups_are_named_with_those_there_are(table: PairTable, tmp_path: Path) -> None:
    gallery = Gallery.of_table(table)
    with pytest.raises(
        ConfigError, match=r"no column 'skv' of groups \(did you mean 'sku'\?\); other columns of .*: .*shelf"
    ):
        groups_of_pictures(gallery, "skv")
    with pytest.raises(ConfigError, match=r"no column 'captions' of groups.*; other columns"):
        groups_of_pictures(gallery, "captions")
    with pytest.raises(
        ConfigError, match="column 'shelf' puts the picture of row 6 into two groups, '0' and '6'; mend"
    ):
        groups_of_pictures(gallery, "shelf")
    (tmp_path / "own").mkdir()
    alone = table_of([("a", "x", "1"), ("b", "y", "2"), ("c", "z", None)], tmp_path / "own")
    with pytest.raises(ConfigError, match="'sku' has a group of its own for each picture, so it says of no two that"):
        groups_of_pictures(Gallery.of_table(alone), "sku")
