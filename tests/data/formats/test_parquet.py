import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture, put
from truepair.data import open_pairs
from truepair.data.formats import parquet
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


def packed(path, size, rows):
    """A long caption that all rows share, which is in the file once."""
    captions = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    table = pa.table({"image": ["a.png"] * rows, "caption": captions})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    return path


def test_rows_that_share_a_long_value_are_decoded_few_at_a_time(tmp_path):
    file = packed(tmp_path / "x.parquet", 8 << 20, 200)
    group = pq.ParquetFile(file).metadata.row_group(0)
    assert file.stat().st_size < 20_000
    assert 1 <= parquet._rows_at_once(group, ["image", "caption"]) <= 8
    assert parquet._rows_at_once(group, ["image"]) == 256
    rows = parquet._rows(pq.ParquetFile(file), ["image", "caption"])
    assert sum(len(row["caption"]) == 8 << 20 for some in rows for row in some) == 200


def test_a_row_larger_than_memory_may_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_LARGEST_ROW", 1 << 20)
    put(tmp_path / "a.png", picture())
    file = packed(tmp_path / "x.parquet", 4 << 20, 20)
    with pytest.raises(DataError, match=r"x\.parquet: a row may have 4 MB in column caption, packed into 0\.00"):
        open_pairs(file)


def test_ordinary_rows_are_decoded_many_at_a_time(tmp_path):
    columns = {"image": ["a.png"] * 3000, "caption": [f"a thing of number {number}" for number in range(3000)]}
    file = write(tmp_path / "x.parquet", columns)
    assert parquet._rows_at_once(pq.ParquetFile(file).metadata.row_group(0), list(columns)) == 256


def test_a_file_called_as_the_folder_of_its_pictures_is_no_list_of_downloads(tmp_path):
    put(tmp_path / "photos" / "a.png", picture("red"))
    path = write(tmp_path / "photos.parquet", {"image": ["photos/a.png"], "caption": ["red"]})
    assert list(open_pairs(path).captions()) == ["red"]
