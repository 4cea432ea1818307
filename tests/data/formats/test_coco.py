import pytest

from tests.data.makers import picture, put, put_json
from truepair.data import open_pairs
from truepair.errors import DataError


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


def test_another_task_of_coco_is_an_error(tmp_path, content):
    content["annotations"] = [{"id": 1, "image_id": 10, "bbox": [0, 0, 1, 1]}]

    with pytest.raises(DataError, match="annotation 1 has no caption"):
        open_pairs(put_json(tmp_path / "instances_val2014.json", content))
