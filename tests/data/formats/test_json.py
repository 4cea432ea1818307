import json
import re

import pytest

from tests.data.makers import picture, put, put_json, put_jsonl
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


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "it is not JSON (Expecting property name"),
        ('{"image": "a.png", "capt', "it is not JSON (Unterminated string"),
        ("null", "it is not an object but None"),
        ("7", "it is not an object but 7"),
        ("{'image': 1}", "it is not JSON (Expecting property name"),
        ('{"image": "a.png"}', "it has no caption column ("),
        ('{"caption": "x"}', "it has no image column ("),
        ('{"image": "a.png", "captions": ["x"], "caption_ids": 5}', "its caption_ids is not a list but 5"),
        ('{"image": "a.png", "captions": ["x"], "caption_ids": [5, 6]}', "it has 2 caption ids for 1 captions"),
        ('{"image": "http://x.org/a.png", "caption": "x"}', "the image is a URL (http://x.org/a.png); download"),
        ('{"image": "a\\u0000.png", "caption": "x"}', "the image path holds a zero byte"),
        ('{"image": 5, "caption": "x"}', "it has no image"),
        ('{"image": "a.png", "caption": 5}', "its caption is not text but 5"),
    ],
)
@pytest.mark.parametrize("line", [1, 3])
def test_one_bad_line_is_left_out_and_listed(folder, bad, why, line):
    good = json.dumps({"image": "a.png", "caption": "x"})
    lines = [good, "", good, good]
    lines[line - 1] = bad
    source = put(folder / "pairs.jsonl", "\n".join(lines))

    table = open_pairs(source)

    assert len(table) == 2
    assert [where for where, _ in table.skipped] == [f"pairs.jsonl line {line}"]
    assert table.skipped[0][1].startswith(why)
    with pytest.raises(DataError, match=rf"pairs\.jsonl line {line}: {re.escape(why)}"):
        open_pairs(source, on_bad="error")
    with pytest.raises(DataError, match=r"1 of 3 rows of .* cannot be used, over max_skipped \(0\.0%\)"):
        open_pairs(source, max_skipped=0)


def test_a_file_of_bad_lines_is_an_error_that_says_what_is_wrong_with_them(folder):
    with pytest.raises(
        DataError, match=r"line 1: it has no caption column .* it has image, label: name one with caption_column"
    ):
        open_pairs(put_jsonl(folder / "pairs.jsonl", [{"image": "a.png", "label": "x"}]))


def test_ids_and_captions_must_agree_in_number(folder):
    with pytest.raises(DataError, match="line 1: it has 2 caption ids for 1 captions"):
        open_pairs(put_jsonl(folder / "p.jsonl", [{"image": "a.png", "captions": ["x"], "caption_ids": [1, 2]}]))


def test_a_list_field_that_is_no_list_is_an_error(folder):
    with pytest.raises(DataError, match="caption_ids is not a list but 5"):
        open_pairs(put_jsonl(folder / "p.jsonl", [{"image": "a.png", "captions": ["x"], "caption_ids": 5}]))


def test_captions_may_be_a_text_or_a_list(tmp_path):
    put(tmp_path / "a.png", picture("red"))
    put(tmp_path / "b.png", picture("blue"))
    source = put_json(
        tmp_path / "pairs.json",
        [{"image": "a.png", "caption": "a red square"}, {"image": "b.png", "caption": ["blue", "a blue square"]}],
    )

    table = open_pairs(source)

    assert table.rows["captions"][:] == [["a red square"], ["blue", "a blue square"]]
    assert table.rows["split"][:] == ["train", "train"]
    assert table.image(1).getpixel((0, 0)) == (30, 30, 220)
    assert len(set(table.image_ids.tolist())) == 2
    assert len({number for ids in table.rows["caption_ids"] for number in ids}) == 3


def test_ids_in_digits_are_kept_and_others_hashed(tmp_path):
    put(tmp_path / "a.png", picture())
    put(tmp_path / "b.png", picture())
    put(tmp_path / "c.png", picture())
    stated = {"a.png": 17, "b.png": "18", "c.png": "coco_19"}
    source = put_json(tmp_path / "x.json", [{"image": p, "caption": "c", "image_id": n} for p, n in stated.items()])

    first, second, third = open_pairs(source).image_ids.tolist()

    assert (first, second) == (17, 18)
    assert third > 2**32


def test_rows_that_repeat_an_image_share_its_id_and_can_be_merged(tmp_path):
    put(tmp_path / "a.png", picture())
    put(tmp_path / "b.png", picture())
    texts = [("a.png", "one"), ("b.png", "two"), ("a.png", "three"), ("a.png", "one")]
    source = put_json(tmp_path / "x.json", [{"image": path, "caption": text} for path, text in texts])

    kept = open_pairs(source)
    merged = open_pairs(source, repeats="merge")

    assert len(kept) == 4
    assert kept.image_ids[0] == kept.image_ids[2] == kept.image_ids[3] != kept.image_ids[1]
    assert kept.rows["caption_ids"][0] == kept.rows["caption_ids"][3] != kept.rows["caption_ids"][2]
    assert merged.rows["captions"][:] == [["one", "three"], ["two"]]
    assert merged.skipped == []


def test_absolute_paths_become_relative_by_stripping_their_beginning(tmp_path):
    put(tmp_path / "pictures" / "a.png", picture("green"))
    source = put_json(tmp_path / "x.json", [{"image": "/export/share/coco/a.png", "caption": "green"}])

    table = open_pairs(source, strip_prefix="/export/share/coco/", image_root=str(tmp_path / "pictures"))

    assert table.image(0).getpixel((0, 0)) == (30, 200, 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": "a.png", "caption": "x"}, "holds no list but one dict"),
        ("text", "holds no list but one str"),
        (["a.png"], "entry 1: it is not an object"),
        ([{"image": "a.png"}], "entry 1: it has no caption column"),
        ([{"caption": "x"}], "entry 1: it has no image column"),
    ],
)
def test_what_is_not_a_list_of_pairs_is_an_error(tmp_path, content, message):
    put(tmp_path / "a.png", picture())

    with pytest.raises(DataError, match=message):
        open_pairs(put_json(tmp_path / "x.json", content), format="albef")


@pytest.mark.parametrize("content", ["[{]", "", "[" * 100_000])
def test_what_is_not_json_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match="is not JSON"):
        open_pairs(put(tmp_path / "x.json", content), format="albef")


def entry(number, name, split, **more):
    sentences = [{"raw": f"{name} {k}", "sentid": 5 * number + k} for k in range(2)]
    ids = [sentence["sentid"] for sentence in sentences]
    return {"imgid": number, "filename": name, "split": split, "sentids": ids, "sentences": sentences, **more}


def test_ids_splits_and_sentences_are_those_of_the_file(tmp_path):
    put(tmp_path / "images" / "a.png", picture("red"))
    put(tmp_path / "images" / "b.png", picture("blue"))
    entries = [entry(4, "a.png", "train"), entry(9, "b.png", "restval")]
    source = put_json(tmp_path / "dataset_tiny.json", {"dataset": "tiny", "images": entries})

    table = open_pairs(source)

    assert table.splits == {"restval": 1, "train": 1}
    assert table.image_ids.tolist() == [4, 9]
    assert table.rows["caption_ids"][:] == [[20, 21], [45, 46]]
    assert table.split("restval").rows[0]["captions"] == ["b.png 0", "b.png 1"]
    assert table.image(1).getpixel((0, 0)) == (30, 30, 220)


def test_coco_entries_name_their_folder(tmp_path):
    put(tmp_path / "coco" / "val2014" / "a.png", picture("green"))
    images = [entry(0, "a.png", "test", filepath="val2014", cocoid=7)]
    source = put_json(tmp_path / "dataset_coco.json", {"images": images})

    table = open_pairs(source, image_root=tmp_path / "coco")

    assert table.image(0).getpixel((0, 0)) == (30, 200, 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": {}}, "no list of objects under 'images'"),
        ([], "no list of objects under 'images'"),
        ({"images": [{"filename": "a.png"}]}, "image 1: it has no filename or no list of sentences"),
        ({"images": [1]}, "image 1: it has no filename"),
    ],
)
def test_another_layout_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_pairs(put_json(tmp_path / "x.json", content), format="karpathy")


@pytest.fixture
def content():
    return {
        "images": [{"id": 30, "file_name": "b.png"}, {"id": 10, "file_name": "a.png"}],
        "annotations": [
            {"id": 901, "image_id": 10, "caption": "first"},
            {"id": 902, "image_id": 30, "caption": "second"},
            {"id": 903, "image_id": 10, "caption": "third"},
        ],
    }


def test_annotations_are_joined_to_their_image(tmp_path, content):
    put(tmp_path / "val2014" / "a.png", picture("red"))
    put(tmp_path / "val2014" / "b.png", picture("blue"))

    table = open_pairs(put_json(tmp_path / "annotations" / "captions_val2014.json", content))

    assert table.image_ids.tolist() == [30, 10]
    assert table.rows["captions"][:] == [["second"], ["first", "third"]]
    assert table.rows["caption_ids"][:] == [[902], [901, 903]]
    assert table.splits == {"val": 2}
    assert table.image(0).getpixel((0, 0)) == (30, 30, 220)


def test_images_without_annotations_and_the_reverse_are_listed(tmp_path, content):
    put(tmp_path / "a.png", picture())
    put(tmp_path / "b.png", picture())
    content["annotations"][1]["image_id"] = 99

    table = open_pairs(put_json(tmp_path / "captions.json", content), max_skipped=0.5)

    assert table.image_ids.tolist() == [10]
    assert sorted(table.skipped) == [
        ("captions.json image 1", "it has no caption"),
        ("captions.json image id 99", "its 1 annotations belong to no image of the file"),
    ]


def test_one_bad_entry_of_coco_is_left_out_and_listed(tmp_path, content):
    put(tmp_path / "a.png", picture())
    put(tmp_path / "b.png", picture())
    bad = {"images": [{"id": 5}, 7], "annotations": [{"id": 1, "image_id": 10}, "x", {"image_id": [], "caption": "x"}]}
    for name, entries in bad.items():
        for entry in entries:
            changed = {**content, name: [entry, *content[name]]}
            table = open_pairs(put_json(tmp_path / "captions.json", changed))
            assert len(table) == 2
            why = (
                "it has no file_name, or no id that is a number or a text"
                if name == "images"
                else "it has no caption, or no image_id that is a number or a text"
            )
            assert table.skipped == [(f"captions.json {name[:-1]} 1", why)]


def test_one_bad_entry_of_karpathy_or_albef_is_left_out_and_listed(tmp_path):
    put(tmp_path / "a.png", picture())
    good = {"filename": "a.png", "sentences": [{"raw": "x"}, "plain", 7]}
    table = open_pairs(put_json(tmp_path / "dataset.json", {"images": [good, {"filename": "b.png"}]}))
    assert table.rows["captions"][:] == [["x", "plain"]]
    assert sorted(table.skipped) == [
        ("dataset.json image 1, caption 3", "its caption is not text but 7"),
        ("dataset.json image 2", "it has no filename or no list of sentences"),
    ]
    table = open_pairs(put_json(tmp_path / "pairs.json", [{"image": "a.png", "caption": "x"}, None]))
    assert table.skipped == [("pairs.json entry 2", "it is not an object but None")]


def test_another_task_of_coco_is_an_error(tmp_path, content):
    content["annotations"] = [{"id": 1, "image_id": 10, "bbox": [0, 0, 1, 1]}]

    with pytest.raises(DataError, match="annotation 1 has no caption"):
        open_pairs(put_json(tmp_path / "instances_val2014.json", content))


_LIST = [{"image": "a.png", "caption": "one"}, {"image": "a.png", "caption": "two"}]

_LINES = "".join(json.dumps(entry) + "\n" for entry in _LIST)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", json.dumps(_LIST)),
        ("x.JSON", json.dumps(_LIST, indent=2)),
        ("x.json", json.dumps({"version": 1, "licenses": [{"id": 1}], "data": _LIST})),
        ("x.json", json.dumps({"annotations": _LIST})),
        ("x.json", json.dumps({"images": [{"file_name": "a.png", "caption": text} for text in ("one", "two")]})),
        ("x.json", _LINES),
        ("x.jsonl", _LINES),
        ("x.NDJSON", f"\n{_LINES}\n\n".replace("\n", "\r\n")),
        ("x.jsonl", json.dumps(_LIST, indent=2)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_whatever_their_ending_wrapping_and_encoding(tmp_path, name, text, encoding):
    put(tmp_path / "a.png", picture())

    table = open_pairs(put(tmp_path / name, text.encode(encoding)))

    assert table.rows["captions"][:] == [["one"], ["two"]]
    assert table.skipped == []


def test_an_object_of_paths_with_their_captions(tmp_path):
    for name in ("a.png", "in/b.JPG"):
        put(tmp_path / name, picture())

    table = open_pairs(put_json(tmp_path / "x.json", {"a.png": ["one", "two"], "in/b.JPG": "three"}))

    assert table.rows["captions"][:] == [["one", "two"], ["three"]]


def test_one_object_on_one_line_is_a_line(tmp_path):
    put(tmp_path / "a.png", picture())

    assert open_pairs(put_json(tmp_path / "x.json", _LIST[0])).rows["captions"][:] == [["one"]]


def test_other_encodings_are_stated(tmp_path):
    put(tmp_path / "a.png", picture())
    text = json.dumps([{"image": "a.png", "caption": "caf\u00e9"}], ensure_ascii=False)
    source = put(tmp_path / "x.json", text.encode("latin-1"))

    assert open_pairs(source, encoding="latin-1").rows["captions"][:] == [["caf\u00e9"]]
    with pytest.raises(DataError, match=r"or give encoding; the first: x\.json entry 1: its caption"):
        open_pairs(source)
