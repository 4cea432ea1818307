import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture, put, put_jsonl
from truepair.data import open_pairs
from truepair.errors import DataError


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def repository(folder, caption_name="caption"):
    """The layout of a data set on the hub: a card and Parquet files by split."""
    put(folder / "README.md", "---\nlicense: mit\n---\n# Squares\n")
    for split, colour in (("train", "red"), ("validation", "blue")):
        file = put(folder / "data" / f"{split}-00000-of-00001.parquet", b"")
        image = {"bytes": encoded(picture(colour)), "path": "square.png"}
        pq.write_table(pa.table({"image": [image], caption_name: [[colour, "a square"]], "size": [12]}), file)
    return folder


def test_a_repository_layout_is_read_with_its_splits(tmp_path):
    table = open_pairs(repository(tmp_path / "squares"))

    assert table.splits == {"train": 1, "val": 1}
    assert table.split("val").rows[0]["captions"] == ["blue", "a square"]
    assert table.split("val").image(0).getpixel((0, 0)) == (30, 30, 220)
    assert table.rows["size"][:] == ["12", "12"]
    assert len(set(table.image_ids.tolist())) == 2


def test_an_image_folder_with_metadata(tmp_path):
    put(tmp_path / "train" / "a.png", picture("green"))
    put_jsonl(tmp_path / "train" / "metadata.jsonl", [{"file_name": "a.png", "text": "green"}])

    table = open_pairs(tmp_path, format="hub")

    assert table.rows["captions"][:] == [["green"]]
    assert table.image(0).getpixel((0, 0)) == (30, 200, 30)


def test_what_save_to_disk_wrote(tmp_path):
    columns = {"picture": [{"bytes": encoded(picture("red")), "path": None}], "caption": ["red"]}
    features = datasets.Features({"picture": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")

    table = open_pairs(tmp_path / "saved")

    assert table.image(0).getpixel((0, 0)) == (220, 30, 30)


def test_missing_columns_are_an_error_that_names_those_there_are(tmp_path):
    source = repository(tmp_path / "squares", caption_name="words")

    with pytest.raises(DataError, match=r"has no caption column .* it has image, words, size: name one"):
        open_pairs(source)
    assert len(open_pairs(source, caption_column="words")) == 2


def test_without_a_network_there_is_one_line_that_says_so(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub\n(offline)")

    monkeypatch.setattr("truepair.data.formats.hub.load_dataset", offline)

    with pytest.raises(DataError, match=r"Couldn't reach 'nobody/nothing' .*check the name and the network") as error:
        open_pairs("nobody/nothing")
    assert "\n" not in str(error.value)
