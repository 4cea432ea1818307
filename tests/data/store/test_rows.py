"""Rows are those that an obvious reference makes of a list, one at a time."""

import json
import os
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.makers import put, put_json, put_jsonl
from truepair.data import open_pairs
from truepair.data.formats import json as json_formats
from truepair.data.split_names import split_of_word
from truepair.randomness import stable_hash

COLUMNS = ("image_id", "split", "group", "family", "names")

TEXTS = st.sampled_from(["a dog", " a dog ", "hund \u00e4", "\u72ac", "it says \u2028 #1", "", "  "])

PATHS = st.sampled_from(
    ["a.png", "./a.png", "d//a.png", "d/../a.png", "d/./b.png", ".h.png", "..a/b.png", "d/", "\u00e4/b.png"]
)

IDS = st.sampled_from([7, 0, -3, 2**63 - 1, 2**63, "7", "07", "x7", True, 1.5])

FIELDS = {
    "split": st.sampled_from(["train", "Validation", "dev", "odd"]),
    "group": st.sampled_from(["g", 5]),
    "family": st.just("f"),
    "vendor": st.sampled_from(["noto", None, 3, [1], {"a": 1}]),
    "text": st.sampled_from(["more", 2]),
    "boxes": st.just([1, 2]),
}


@st.composite
def lists(draw):
    """Entries of a list; no image id stands for two pictures."""
    entries = [{"image": "first.png", "caption": "the first"}, *draw(st.lists(entry(), max_size=6))]
    pictures = {}
    for each in entries:
        picture = os.path.normpath(each["image"])
        if pictures.setdefault(str(each.get("image_id", each["image"])), picture) != picture:
            del each["image_id"]
    return entries


@st.composite
def entry(draw):
    texts = draw(TEXTS | st.lists(TEXTS | st.none() | st.just(4), max_size=3))
    fields = draw(st.fixed_dictionaries({}, optional=FIELDS))
    fields |= draw(st.just({}) | st.builds(lambda number: {"image_id": number}, IDS))
    return {"image": draw(PATHS), "caption": texts} | fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    put(folder / "first.png", "the root is found by it")
    return folder


@pytest.fixture(autouse=True, params=[1, 1000])
def first_lines(request, monkeypatch):
    """How many lines say which further columns there are."""
    monkeypatch.setattr(json_formats, "_FIRST_LINES", request.param)


@settings(max_examples=15)
@given(entries=lists())
def test_lines_become_the_rows_of_the_reference(folder, entries):
    file = put_jsonl(folder / "pairs.jsonl", entries)

    assert opened(file) == references(entries, folder, further(entries))


@settings(max_examples=15)
@given(entries=lists())
def test_entries_of_a_list_become_the_rows_of_the_reference(folder, entries):
    file = put_json(folder / "pairs.json", entries)

    assert opened(file) == references(entries, folder, ())


@settings(max_examples=15)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["train", "val"]), st.lists(st.integers(0, 5), min_size=1)),
        min_size=1,
    )
)
def test_merged_rows_are_those_of_the_reference(folder, rows):
    entries = [
        {"image": "first.png", "image_id": number, "split": split, "captions": [f"text {text}" for text in texts]}
        for number, split, texts in rows
    ]

    file = put_jsonl(folder / "pairs.jsonl", entries)

    merged = {}
    for each in entries:
        row = reference(each, folder, ())
        first = merged.setdefault((row["image_id"], row["split"]), row)
        if first is not row:
            known = set(first["caption_ids"])
            for text, number in zip(row["captions"], row["caption_ids"], strict=True):
                if number not in known:
                    first["captions"].append(text)
                    first["caption_ids"].append(number)
    assert opened(file, repeats="merge") == list(merged.values())


def test_pictures_under_one_id_in_two_files_are_found_across_parts(folder, monkeypatch):
    monkeypatch.setattr("truepair.data.store.rows._BATCH_ROWS", 2)
    monkeypatch.setattr("truepair.data.store.cache.BLOCK", 3)
    entries = [{"image": "first.png", "caption": f"text {row}", "image_id": row % 4} for row in range(20)]
    entries[17]["image"] = "other.png"
    file = put_jsonl(folder / "pairs.jsonl", entries)

    table = open_pairs(file, repeats="merge", cache_dir=str(folder / "cache"))

    assert table.rows["captions"][1] == [f"text {row}" for row in range(1, 20, 4)]
    [(where, why)] = table.skipped
    assert where.endswith("other.png")
    assert "it shares its image id with image" in why
    assert why.endswith("first.png: captions merged, image left out")


def opened(file, **options):
    """All rows as mappings; a column that is not there is one of nothing."""
    with TemporaryDirectory(dir=file.parent) as cache:
        rows = open_pairs(file, max_skipped=0.99, cache_dir=cache, **options).rows.to_list()
    for row in rows:
        row["image"] = row["image"]["path"]
    return [{**dict.fromkeys(COLUMNS), **row} for row in rows]


def further(entries):
    """Names of the fields that become text columns."""
    known = {"image", "caption", "captions", "image_id", "split", "group", "family", "names", "caption_ids"}
    return list(
        dict.fromkeys(
            name
            for each in entries
            for name, value in each.items()
            if name not in known and not isinstance(value, list | dict)
        )
    )


def references(entries, folder, extra):
    """The rows of some entries."""
    rows = [row for each in entries if (row := reference(each, folder, extra))]
    for row in rows:
        own = [other["captions"] for other in rows if other["group"] == row["group"]]
        row["names"] = None if row["group"] is None else list(dict.fromkeys(text for texts in own for text in texts))
    if not any(row["group"] for row in rows):
        return rows
    return [row | {"names": row["names"] or row["captions"]} for row in rows]


def reference(each, folder, extra):
    """The row of an entry; None if it cannot be used."""
    path = os.path.normpath(f"{folder}/{each['image']}")
    stated = each.get("caption", each.get("captions"))
    captions = [text.strip() for text in (stated if isinstance(stated, list) else [stated]) if isinstance(text, str)]
    captions = [text for text in captions if text]
    if not captions:
        return None
    image_id = stable_hash("image", each["image"])
    if each.get("image_id") is not None:
        text = str(each["image_id"])
        whole = text.isdigit() and str(int(text)) == text and int(text) < 2**63
        image_id = int(text) if whole else stable_hash("id", text)
    return {
        "image": path,
        "image_id": image_id,
        "captions": captions,
        "caption_ids": [
            stable_hash("caption", image_id, text, captions[:number].count(text))
            for number, text in enumerate(captions)
        ],
        "split": split_of_word(each["split"]) if "split" in each else "train",
        "group": as_text(each.get("group")),
        "family": each.get("family"),
        "names": None,
        **{name: as_text(each.get(name)) for name in extra},
    }


def as_text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value)
