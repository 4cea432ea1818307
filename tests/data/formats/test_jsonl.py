import json

import pytest

from tests.data.makers import picture, put, put_jsonl
from truepair.data import open_pairs
from truepair.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        put(tmp_path / f"{name}.png", picture())
    return tmp_path


def test_names_are_all_captions_of_the_group_over_all_splits(folder):
    rows = [("a", "g", "train", ["x", "y"]), ("b", "g", "test", ["z", "x"]), ("c", "h", "train", ["w"])]
    entries = ({"image": f"{i}.png", "group": g, "split": s, "captions": c} for i, g, s, c in rows)

    table = open_pairs(put_jsonl(folder / "pairs.jsonl", entries), split="train")

    assert table.rows["names"][:] == [["x", "y", "z"], ["w"]]
    assert table.rows["group"][:] == ["g", "h"]
    assert "family" not in table.rows.column_names


def test_stated_names_are_kept(folder):
    entries = [
        {"image": "a.png", "group": "g", "caption": "x", "names": ["x", "n"]},
        {"image": "b.png", "group": "g", "caption": "y"},
        {"image": "c.png", "caption": "z"},
    ]

    table = open_pairs(put_jsonl(folder / "pairs.jsonl", entries))

    assert table.rows["names"][:] == [["x", "n"], ["x", "n", "y"], ["z"]]


def test_without_groups_there_are_no_truth_columns(folder):
    table = open_pairs(put_jsonl(folder / "pairs.jsonl", [{"image": "a.png", "caption": "x"}]))

    assert table.rows.column_names == ["image", "image_id", "captions", "caption_ids", "split"]


def test_further_scalar_fields_become_text_columns(folder):
    entries = [
        {"image": "a.png", "caption": "x", "vendor": "noto", "good": True, "boxes": [1]},
        {"image": "b.png", "caption": "y", "score": 0.5},
    ]

    rows = open_pairs(put_jsonl(folder / "pairs.jsonl", entries)).rows

    assert rows["vendor"][:] == ["noto", None]
    assert rows["good"][:] == ["true", None]
    assert rows["score"][:] == [None, "0.5"]
    assert "boxes" not in rows.column_names


def test_fields_can_be_named(folder):
    entries = [{"photo": "a.png", "alt": "wrong", "words": "right"}]

    table = open_pairs(put_jsonl(folder / "p.jsonl", entries), image_column="photo", caption_column="words")

    assert table.rows["captions"][:] == [["right"]]


@pytest.mark.parametrize("bad", ["{", "[]", "7", "{'image': 1}"])
def test_a_malformed_line_is_an_error_with_its_number(folder, bad):
    good = json.dumps({"image": "a.png", "caption": "x"})

    with pytest.raises(DataError, match=r"pairs\.jsonl line 3 is not "):
        open_pairs(put(folder / "pairs.jsonl", f"{good}\n\n{bad}\n{good}\n"))


def test_a_line_without_a_caption_field_is_an_error_that_names_the_fields(folder):
    with pytest.raises(
        DataError, match=r"line 1 has no caption column .* it has image, label: name one with caption_column"
    ):
        open_pairs(put_jsonl(folder / "pairs.jsonl", [{"image": "a.png", "label": "x"}]))


def test_ids_and_captions_must_agree_in_number(folder):
    with pytest.raises(DataError, match="2 caption ids for 1 captions"):
        open_pairs(put_jsonl(folder / "p.jsonl", [{"image": "a.png", "captions": ["x"], "caption_ids": [1, 2]}]))


def test_a_list_field_that_is_no_list_is_an_error(folder):
    with pytest.raises(DataError, match="caption_ids is not a list but 5"):
        open_pairs(put_jsonl(folder / "p.jsonl", [{"image": "a.png", "captions": ["x"], "caption_ids": 5}]))
