from tests.data.makers import picture, put
from truepair.data import open_pairs


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
