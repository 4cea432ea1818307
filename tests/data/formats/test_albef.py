import pytest

from tests.data.makers import picture, put, put_json
from truepair.data import open_pairs
from truepair.errors import DataError


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
        (["a.png"], "entry 1 is not an object"),
        ([{"image": "a.png"}], "entry 1 has no caption column"),
        ([{"caption": "x"}], "entry 1 has no image column"),
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
