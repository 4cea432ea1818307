"""Converted pairs of a ledger, against a slow reading of the same verdicts, and what the truth says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from truepair.data.open import open_pairs
from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.evaluation.truth import Truth
from truepair.judges.base import JudgeConfig
from truepair.methods.ecm import EcmConfig
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.rules import RelationsConfig
from truepair.relations.ledger import Ledger
from truepair.relations.text import caption_key
from truepair.tasks.conversions import read_conversions

BY_JUDGE = PretrainRecipe(ecm=EcmConfig(judge=JudgeConfig(checkpoint="judge")))
DOG = ["a dog", "a good dog", "a hound"]
# What each row shows: (captions, all that is true of it, family).
ROWS = [
    (["a dog", "a good dog"], DOG, "animal"),
    (["a hound"], DOG, "animal"),
    (["a cat"], ["a cat"], "animal"),
    (["a car"], ["a car"], None),
    (["something"], None, None),
]


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    lines = []
    for number, (captions, names, family) in enumerate(ROWS):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "captions": captions, "names": names, "family": family}
        lines.append(json.dumps(row))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return open_pairs(tmp_path / "pairs.jsonl")


def record(folder: Path, table: PairTable, verdicts: list[tuple[int, int, int, float, str, int]]) -> None:
    """Write verdicts given as image row, caption row, place of the caption, probability, judge, epoch."""
    with Ledger(folder / "ledger", rows_per_part=2) as ledger:
        for image, owner, place, score, judge, epoch in verdicts:
            ledger.record(
                torch.tensor([table.rows[image]["image_id"]]),
                torch.tensor([table.rows[owner]["caption_ids"][place]]),
                torch.tensor([score]),
                judge=judge,
                epoch=epoch,
            )


def test_each_pair_counts_once_from_its_first_conversion(table: PairTable, tmp_path: Path) -> None:
    verdicts = [
        (1, 0, 1, 0.85, "judge:ab", 4),
        (0, 1, 0, 0.9, "judge:ab", 2),
        (0, 1, 0, 0.99, "judge:ab", 3),
        (1, 0, 1, 0.8, "judge:cd", 1),
        (2, 0, 0, 0.95, "judge:ef", 0),
        (3, 0, 0, 0.9, "judge:ab", 0),
        (4, 0, 0, 0.9, "judge:ab", 0),
        (3, 1, 0, 0.6, "judge:ab", 0),
    ]
    record(tmp_path, table, verdicts)
    found = read_conversions(tmp_path, table, [], BY_JUDGE)
    assert found is not None
    first: dict[tuple[int, int, int], tuple[int, float]] = {}
    for image, owner, place, score, _, epoch in verdicts:
        if score >= 0.8:
            cell = (image, owner, place)
            first[cell] = min(first.get(cell, (9, 0.0)), (epoch, score))
    cells = list(zip(found.images.tolist(), found.captions.tolist(), found.places.tolist(), strict=True))
    assert set(cells) == set(first)
    assert len(found) == len(first)
    assert found.epochs.tolist() == [first[cell][0] for cell in cells]
    assert found.scores.tolist() == pytest.approx([first[cell][1] for cell in cells])
    words = dict(zip(cells, found.verdicts.tolist(), strict=True))
    assert words == {(0, 1, 0): "true", (1, 0, 1): "true", (2, 0, 0): "near", (3, 0, 0): "false", (4, 0, 0): "unknown"}
    assert (found.true, found.judged, found.precision) == (2, 4, 0.5)
    assert found.recall is None


def test_recall_is_that_of_all_epochs_of_the_log(table: PairTable, tmp_path: Path) -> None:
    record(tmp_path, table, [(0, 1, 0, 0.9, "judge:ef", 0)])
    log = [
        {"kind": "step", "step": 1},
        {"kind": "epoch", "step": 2, "ecm/conversions_right": 3.0, "ecm/conversions_batch_true": 4.0},
        {"kind": "epoch", "step": 4, "ecm/conversions_right": 0.0, "ecm/conversions_batch_true": 8.0},
    ]
    found = read_conversions(tmp_path, table, log, BY_JUDGE)
    assert found is not None
    assert found.recall == pytest.approx(0.25)


def test_a_judge_that_converted_nothing_is_told_from_no_judge(table: PairTable, tmp_path: Path) -> None:
    assert read_conversions(tmp_path, table, [], BY_JUDGE) is None
    record(tmp_path / "strict", table, [(0, 1, 0, 0.1, "judge:ab", 0)])
    found = read_conversions(tmp_path / "strict", table, [], BY_JUDGE)
    assert found is not None
    assert (len(found), found.precision, len(found.draw(48))) == (0, None, 0)


def test_a_ledger_of_other_data_is_one_line(table: PairTable, tmp_path: Path) -> None:
    record(tmp_path, table, [(4, 0, 0, 0.9, "judge:ef", 0)])
    with pytest.raises(DataError, match=r"knows image id .*, which the pairs lack"):
        read_conversions(tmp_path, table.select(np.arange(4)), [], BY_JUDGE)


def test_the_draw_repeats_nothing_but_itself(table: PairTable, tmp_path: Path) -> None:
    record(tmp_path, table, [(row, 3, 0, 0.9, "judge:ef", 0) for row in (0, 1, 2, 4)])
    found = read_conversions(tmp_path, table, [], BY_JUDGE)
    assert found is not None
    assert sorted(found.draw(9).tolist()) == [0, 1, 2, 3]
    assert found.draw(3, seed=5).tolist() == found.draw(3, seed=5).tolist() == found.draw(9, seed=5)[:3].tolist()
    assert len({tuple(found.draw(4, seed=seed).tolist()) for seed in range(8)}) > 1


def test_truth_of_every_pair_is_that_of_a_slow_look(table: PairTable) -> None:
    rows = [(image, owner) for image in range(len(ROWS)) for owner in range(len(ROWS)) if image != owner]
    images, owners = torch.tensor(rows).T
    keys = torch.tensor([caption_key(ROWS[owner][0][0]) for owner in owners])

    def look(image: int, owner: int) -> str:
        """What the list above says."""
        (_, names, family), (captions, _, other_family) = ROWS[image], ROWS[owner]
        if names is None:
            return "unknown"
        return "true" if captions[0] in names else "near" if family and family == other_family else "false"

    assert Truth.of_table(table).verdicts(images, keys).tolist() == [look(*pair) for pair in rows]


def test_without_truth_columns_nothing_is_known(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "captions": ["a dog"]}\n')
    zero, key = torch.zeros(1, dtype=torch.int64), torch.tensor([caption_key("a dog")])
    assert Truth.of_table(open_pairs(tmp_path / "pairs.jsonl")).verdicts(zero, key).tolist() == ["unknown"]


def test_zones_of_the_rules_say_what_became_of_recorded_verdicts(table: PairTable, tmp_path: Path) -> None:
    verdicts = [(0, 1, 0, 0.9, "mined:a", 0), (1, 0, 0, 0.4, "mined:a", 0), (2, 0, 0, 0.2, "person:ann", 0)]
    record(tmp_path, table, verdicts)
    ledger = {"detector": "recorded", "ledger": "elsewhere"}
    strict = ledger | {"zone": "match", "high": 0.5, "action": "relabel"}
    for rules, wanted in (
        ([strict], [0]),
        ([strict, ledger | {"zone": "doubtful", "low": 0.3, "high": 0.5, "action": "relabel"}], [0, 1]),
        ([strict | {"action": "mask"}], []),
    ):
        found = read_conversions(tmp_path, table, [], PretrainRecipe(relations=RelationsConfig(rules=rules)))
        assert found is not None and found.images.tolist() == wanted
    assert len(read_conversions(tmp_path, table, [], BY_JUDGE) or ()) == 0  # that judge said nothing
