import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture, put
from truepair.data import open_pairs
from truepair.errors import DataError


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("cell", ["struct", "bytes", "path"])
def test_images_may_be_structs_bytes_or_paths(tmp_path, cell):
    put(tmp_path / "a.png", picture("green"))
    data = encoded(picture("green"))
    image = {"struct": {"bytes": data, "path": None}, "bytes": data, "path": "a.png"}[cell]

    table = open_pairs(write(tmp_path / "x.parquet", {"image": [image], "text": ["green"], "width": [12]}))

    assert table.image(0).getpixel((0, 0)) == (30, 200, 30)
    assert table.rows["captions"][:] == [["green"]]
    assert table.rows["width"][:] == ["12"]


def test_a_folder_of_files_named_for_splits(tmp_path):
    data = encoded(picture())
    write(tmp_path / "data" / "train-0.parquet", {"jpg": [data, data], "captions": [["a", "b"], ["c"]]})
    write(tmp_path / "data" / "validation-0.parquet", {"jpg": [data], "captions": [["d"]]})

    table = open_pairs(tmp_path / "data")

    assert table.splits == {"train": 2, "val": 1}
    assert len(set(table.image_ids.tolist())) == 3


def test_missing_images_are_listed(tmp_path):
    data = encoded(picture())
    columns = {"image": pa.array([data, None], pa.binary()), "caption": ["a", "b"]}

    table = open_pairs(write(tmp_path / "x.parquet", columns), max_skipped=0.5)

    assert table.skipped == [("x.parquet row 1", "it has no image")]


def test_a_damaged_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a readable Parquet file"):
        open_pairs(put(tmp_path / "x.parquet", b"PAR1 and nothing more"))


def test_missing_columns_are_an_error(tmp_path):
    with pytest.raises(DataError, match="has no caption column"):
        open_pairs(write(tmp_path / "x.parquet", {"image": ["a.png"], "label": ["x"]}))


def test_files_of_one_name_in_folders_named_for_splits(tmp_path):
    write(tmp_path / "data" / "train" / "0000.parquet", {"jpg": [encoded(picture("red"))], "captions": [["a"]]})
    write(tmp_path / "data" / "test" / "0000.parquet", {"jpg": [encoded(picture("blue"))], "captions": [["b"]]})

    table = open_pairs(tmp_path / "data")

    assert dict(zip(table.rows["split"], table.rows["captions"], strict=True)) == {"train": ["a"], "test": ["b"]}
    assert len(set(table.image_ids.tolist())) == 2


def test_a_folder_named_like_a_split_is_one_though_it_is_the_only_one(tmp_path):
    write(tmp_path / "set" / "test" / "0.parquet", {"webp": [encoded(picture())], "txt": ["one\ntwo\n"]})

    table = open_pairs(tmp_path / "set")

    assert table.splits == {"test": 1}
    assert table.rows["captions"][:] == [["one", "two"]]  # a column "txt" is what a text file in a tar is
    assert open_pairs(tmp_path / "set", caption_lines="one").rows["captions"][:] == [["one\ntwo"]]


def test_a_damaged_file_is_named(tmp_path):
    file = write(tmp_path / "x.parquet", {"image": [encoded(picture())] * 4, "caption": ["a", "b", "c", "d"]})
    damaged = bytearray(file.read_bytes())
    damaged[4:40] = b"\xff" * 36  # the header of the first page
    file.write_bytes(damaged)

    with pytest.raises(DataError, match=r"x\.parquet is not a readable Parquet file \(.*\); fetch it again"):
        open_pairs(file)
