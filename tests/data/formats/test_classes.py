import pytest

from tests.data.makers import picture, put
from truepair.data import open_pairs
from truepair.errors import DataError


def test_the_class_of_an_image_is_the_folder_it_lies_in(tmp_path):
    put(tmp_path / "polar_bear" / "a.jpg", picture("white"))
    put(tmp_path / "polar_bear" / "more" / "b.PNG", picture("white"))
    put(tmp_path / "elsewhere" / "c.png", picture("red"))
    put(tmp_path / "elsewhere" / ".DS_Store", "")
    put(tmp_path / "words.txt", "bears and engines")
    root = tmp_path / "set"
    root.mkdir()
    for name, target in (("polar_bear", "polar_bear"), ("fire_engine", "elsewhere"), ("words.txt", "words.txt")):
        (root / name).symlink_to(tmp_path / target)

    table = open_pairs(root, format="classes")

    assert table.rows["captions"][:] == [["fire_engine"], ["polar_bear"], ["polar_bear"]]
    assert table.splits == {"train": 3}
    assert table.image(0).getpixel((0, 0)) == (220, 30, 30)
    assert table.skipped == [(str(root), "1 files *.txt are no images")]


def test_first_folders_that_are_all_named_for_splits_are_splits(tmp_path):
    for split, colour in (("train", "red"), ("validation", "blue")):
        put(tmp_path / split / colour / "a.png", picture(colour))

    table = open_pairs(tmp_path, format="classes")

    assert table.splits == {"train": 1, "val": 1}
    assert table.split("val").rows["captions"][:] == [["blue"]]


def test_a_class_may_be_called_train_beside_another(tmp_path):
    for name in ("train", "bus"):
        put(tmp_path / name / "a.png", picture())

    assert open_pairs(tmp_path, labels=True).rows["captions"][:] == [["bus"], ["train"]]


def test_images_outside_of_any_class_are_an_error_where_they_are_many(tmp_path):
    for name in ("bus/a.png", "b.png", "c.png"):
        put(tmp_path / name, picture())

    with pytest.raises(DataError, match=r"2 of 3 rows .* cannot be used.*b\.png: it lies in no folder of a class"):
        open_pairs(tmp_path, labels=True)
