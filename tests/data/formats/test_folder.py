import json

import pytest

from tests.data.makers import encoded, picture, put
from truepair.data import open_pairs
from truepair.errors import DataError


def test_captions_are_the_lines_of_the_text_file_beside_the_image(tmp_path):
    put(tmp_path / "train" / "b.png", picture("blue"))
    put(tmp_path / "train" / "b.txt", "blue\n\n a blue square \n")
    put(tmp_path / "val" / "a.jpg", picture("red"))
    put(tmp_path / "val" / "a.txt", "red")

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["blue", "a blue square"], ["red"]]
    assert table.rows["split"][:] == ["train", "val"]
    assert table.image(0).getpixel((0, 0)) == (30, 30, 220)


def test_what_has_no_partner_is_listed(tmp_path):
    for name in "abcd":
        put(tmp_path / f"{name}.png", picture())
        put(tmp_path / f"{name}.txt", name)
    (tmp_path / "b.txt").unlink()
    (tmp_path / "c.png").unlink()
    put(tmp_path / "notes.json", "{}")

    table = open_pairs(tmp_path, max_skipped=0.5)

    assert table.rows["captions"][:] == [["a"], ["d"]]
    assert set(table.skipped) == {
        ("b.png", "there is no text file beside the image"),
        ("c.txt", "there is no image beside the text file"),
        (str(tmp_path), "1 files *.json are neither images nor captions"),
    }


def test_a_text_file_may_be_one_caption(tmp_path):
    put(tmp_path / "a.jfif", picture())
    put(tmp_path / "a.txt", "two\nlines")
    put(tmp_path / "b.jpe", picture())
    put(tmp_path / "b.txt", "one")

    assert open_pairs(tmp_path, caption_lines="one").rows["captions"][:] == [["two\nlines"], ["one"]]
    assert open_pairs(tmp_path).rows["captions"][:] == [["two", "lines"], ["one"]]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("A.JPG", "A.TXT"),
        ("photo v1.3.jpg", "photo v1.3.txt"),
        ("photo v1.3.jpg", "photo v1.3.alt.txt"),
        ("a.jpg", "a.caption"),
        ("a.jpg", "a.text"),
        ("a.alt.jpg", "a.alt.txt"),
        ("a.jpg", "a.jpg.txt"),
        ("in/more/a.PnG", "in/more/a.Txt"),
        *((f"a.{ending}", "a.txt") for ending in ("jfif", "jpe", "JIF", "pnm", "tif", "jp2")),
    ],
)
def test_names_of_images_and_their_texts(tmp_path, image, text):
    put(tmp_path / image, encoded(picture()))
    put(tmp_path / text, "one\ntwo")

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["one", "two"]] and table.skipped == []
    assert table.image(0).size == (12, 8)


@pytest.mark.parametrize("content", [{"caption": ["one", "two"], "split": "test"}, [{"caption": "one"}, "two"]])
def test_captions_may_be_in_json(tmp_path, content):
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.json", json.dumps(content))

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["one", "two"]]
    assert table.splits == {"test" if isinstance(content, dict) else "train": 1}


def test_the_ending_of_the_captions_can_be_named(tmp_path):
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.cap", "one")

    with pytest.raises(
        DataError, match=r"captions beside them \(if they are in \.cap, name it with caption_column\); give"
    ):
        open_pairs(tmp_path)
    assert open_pairs(tmp_path, caption_column="cap").rows["captions"][:] == [["one"]]


def test_what_a_mac_leaves_is_hidden(tmp_path):
    for name in ("a.jpg", "._a.jpg", "__MACOSX/._a.jpg", ".DS_Store"):
        put(tmp_path / name, picture())
    put(tmp_path / "a.txt", "one")

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["one"]]
    assert table.skipped == [(str(tmp_path), "3 hidden files are not read")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_texts_in_other_encodings(tmp_path, encoding):
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.txt", "one, two\r\nthree".encode(encoding))

    assert open_pairs(tmp_path).rows["captions"][:] == [["one, two", "three"]]
