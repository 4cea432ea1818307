from pathlib import Path
from typing import Any

import pytest

from tests.data.makers import noise, photos, put, put_jsonl
from truepair.data.judgements import Judgement, judged_captions, on_first_rows, read_judgements
from truepair.data.open import open_pairs
from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.evaluation.truth import Truth


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    """Three photographs with the captions "picture N" and "number N"."""
    return open_pairs(photos(tmp_path, 3))


def ids(table: PairTable, row: int, caption: int) -> tuple[int, int]:
    return int(table.image_ids[row]), table.rows[row]["caption_ids"][caption]


def test_lines_become_judgements(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"image": "a.jpg", "image_id": 48, "caption_id": 437, "own": False, "crowd": [0, 3], "label": "no"},
        {"image_id": 48, "caption_id": 9, "expert": [4, 4, 4], "label": "match"},
    ]
    path = put_jsonl(tmp_path / "judged.jsonl", lines)
    assert read_judgements(path) == [Judgement(48, 437, "no"), Judgement(48, 9, "match")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "judged.jsonl line 2 is no object with image_id, caption_id and label"),
        ("[]", "line 2 is no object"),
        ('{"image_id": 1, "caption_id": 2}', "line 2 is no object"),
        ('{"image_id": 1, "caption_id": 2, "label": "yes"}', "line 2: label is 'yes'; give match, near or no"),
        ('{"image_id": "1", "caption_id": 2, "label": "no"}', "line 2: image_id and caption_id must be integers"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = put(tmp_path / "judged.jsonl", '{"image_id": 1, "caption_id": 2, "label": "no"}\n' + line)
    with pytest.raises(DataError, match=message):
        read_judgements(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read from"):
        read_judgements(tmp_path / "nothing.jsonl")


def test_matches_and_near_matches_reach_the_truth(table: PairTable) -> None:
    judged = judged_captions(
        table,
        [
            Judgement(ids(table, 0, 0)[0], ids(table, 1, 0)[1], "match"),
            Judgement(ids(table, 0, 0)[0], ids(table, 2, 1)[1], "near"),
            Judgement(ids(table, 0, 0)[0], ids(table, 2, 0)[1], "no"),
            Judgement(ids(table, 1, 0)[0], ids(table, 1, 1)[1], "match"),  # its own caption: true anyway
            Judgement(1, 2, "match"),  # of another data set
        ],
    )
    assert judged.names == [
        ["picture 0", "number 0", "picture 1"],
        ["picture 1", "number 1"],
        ["picture 2", "number 2"],
    ]
    assert judged.near == [["number 2"], [], []] and judged.matches == 1
    own = list(table.rows["captions"])
    truth = Truth.from_names(own, judged.names, near=judged.near)
    plain = Truth.from_names(own)
    assert truth.texts == plain.texts, "judgements must not change what is retrieved"
    assert len(truth.true) == len(plain.true) + 1
    assert truth.ignored.tolist() == [[0, truth.texts.index("number 2")]]


def test_judgements_of_another_data_set_are_refused(table: PairTable) -> None:
    with pytest.raises(DataError, match="no judged pair is of"):
        judged_captions(table, [Judgement(1, 2, "match")])


def test_a_judgement_on_one_copy_holds_for_the_picture(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        put(tmp_path / f"{name}.png", noise(number))
    put(tmp_path / "copy.png", (tmp_path / "a.png").read_bytes())
    entries = [
        {"image": f"{name}.png", "captions": [name], "image_id": number, "caption_ids": [number]}
        for number, name in enumerate(("b", "a", "copy"))
    ]
    table = open_pairs(put_jsonl(tmp_path / "pairs.jsonl", entries))
    pictures = table.as_pictures()
    said = on_first_rows([Judgement(2, 0, "match"), Judgement(77, 0, "match")], table)
    assert [item.image_id for item in said] == [1, 77]
    assert judged_captions(pictures, said).names == [["b"], ["a", "copy", "b"]]
