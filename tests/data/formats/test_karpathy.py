import pytest

from tests.data.makers import picture, put, put_json
from truepair.data import open_pairs
from truepair.errors import DataError


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
        ({"images": [{"filename": "a.png"}]}, "image 1 has no filename or no list of sentences"),
        ({"images": [{"filename": "a.png", "sentences": ["text"]}]}, "a sentence that is no object"),
    ],
)
def test_another_layout_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_pairs(put_json(tmp_path / "x.json", content), format="karpathy")
