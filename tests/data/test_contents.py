"""Which pictures are the same: by id, by file, by bytes; and which are not there."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, noise, picture, put, put_jsonl
from truepair.data import contents as contents_module
from truepair.data import open_pairs
from truepair.data.identity import contradictions, match_keys, shared_pictures
from truepair.data.splits import DataConfig, build_tables
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError


def listed(folder: Path, names: Sequence[str], **fields: Sequence[object]) -> Path:
    entries = [
        {"image": name, "caption": f"c{row}", **{field: values[row] for field, values in fields.items()}}
        for row, name in enumerate(names)
    ]
    return put_jsonl(folder / "pairs.jsonl", entries)


def copies(folder: Path) -> list[str]:
    """Names of pictures, of which the first six are one, and the last two are not read as one, though nearly equal."""
    (folder / "images").mkdir()
    for number in range(3):
        put(folder / f"{number}.png", noise(number))
    put(folder / "copy of 0.png", (folder / "0.png").read_bytes())
    (folder / "link.png").symlink_to(folder / "0.png")
    os.link(folder / "0.png", folder / "hard.png")
    large = bytearray(encoded(noise(9, (300, 300)), "BMP"))
    put(folder / "large.bmp", bytes(large))
    large[100_000] ^= 1
    put(folder / "one pixel.bmp", bytes(large))
    same = ["0.png", "./0.png", "images/../0.png", "link.png", "hard.png", "copy of 0.png"]
    return [*same, "1.png", "2.png", "large.bmp", "one pixel.bmp"]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("bytes", [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        ("file", [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
        ("id", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_one_picture_has_many_names(tmp_path: Path, identity: str, expected: list[int]) -> None:
    table = open_pairs(listed(tmp_path, copies(tmp_path), image_id=range(10)), identity=identity)
    assert table.pictures.tolist() == expected
    keys = [min(row for row in range(10) if expected[row] == expected[n]) for n in range(10)]
    assert table.picture_keys.tolist() == keys, "the smallest id of each picture"
    assert match_keys(table, "draw")[:, 0].tolist() == keys
    assert len(table.as_pictures()) == max(expected) + 1


def test_pictures_are_one_over_a_third_that_is_in_another_split(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        put(tmp_path / f"{name}.png", noise(number % 2))
    source = listed(
        tmp_path, ["a.png", "b.png", "c.png", "d.png"], image_id=[1, 1, 3, 4], split=["train", "val", "val", "test"]
    )
    # a is b by id, a is c and b is d by bytes.
    table = open_pairs(source)
    assert table.pictures.tolist() == [0, 0, 0, 0]
    assert shared_pictures(table.split("train"), table.split("test")) == 1
    assert table.split("test").picture_keys.tolist() == [4], "an id of the split"


def test_files_of_two_sources_are_compared_by_their_bytes_as_a_whole(tmp_path: Path) -> None:
    names = copies(tmp_path)
    other = tmp_path / "other"
    put(other / "large.bmp", (tmp_path / "large.bmp").read_bytes())
    put(other / "0.png", (tmp_path / "0.png").read_bytes())
    train = open_pairs(listed(tmp_path, ["large.bmp", *names[5:8]]), name="train")
    test = open_pairs(listed(other, ["large.bmp", "0.png"]), name="test")
    assert PairTable.concat([train, test]).pictures.tolist() == [0, 1, 2, 3, 0, 1]
    assert shared_pictures(test, train) == 2
    nearly = open_pairs(listed(tmp_path, ["one pixel.bmp"]), name="nearly")
    assert shared_pictures(nearly, train) == 0


def test_embedded_pictures_and_files_are_compared(tmp_path: Path) -> None:
    red = encoded(picture("red"))
    put(tmp_path / "red.png", red)
    pq.write_table(
        pa.table({"image": [red, encoded(picture("blue")), red], "caption": list("abc")}), tmp_path / "rows.parquet"
    )
    rows = open_pairs(tmp_path / "rows.parquet", name="rows")
    files = open_pairs(listed(tmp_path, ["red.png"]), name="files")
    assert rows.pictures.tolist() == [0, 1, 0]
    assert PairTable.concat([files, rows]).pictures.tolist() == [0, 0, 1, 0]
    assert rows.as_pairs().as_pictures().values("captions") == [["a", "c"], ["b"]]


def test_hashes_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.png", noise(number))
    source = listed(tmp_path, ["0.png", "1.png", "2.png"])
    read: list[int] = []
    monkeypatch.setattr(
        contents_module, "_hash_file", lambda *_, it=contents_module._hash_file: read.append(1) or it(*_)
    )
    assert open_pairs(source).pictures.tolist() == [0, 1, 2]
    assert len(read) == 3
    assert open_pairs(source).pictures.tolist() == [0, 1, 2]
    assert len(read) == 3
    put(tmp_path / "2.png", (tmp_path / "0.png").read_bytes())
    assert open_pairs(source).pictures.tolist() == [0, 1, 0]
    assert len(read) == 4


def test_contradictions_are_named_with_counts_and_the_first_few(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"{number}.png", noise(number))
    put(tmp_path / "copy.png", (tmp_path / "0.png").read_bytes())
    names = ["0.png", "copy.png", "1.png", "1.png", "2.png", "3.png"]
    source = listed(tmp_path, names, image_id=[0, 0, 1, 10, 2, 2])
    place = str(tmp_path)
    assert [line.replace(place, "") for line in contradictions(open_pairs(source))] == [
        "pairs: 1 image id stands for several pictures (2: /2.png, /3.png); all rows of an id count as one picture: "
        "repair them, or set derive_ids",
        "pairs: 2 pictures stand under several ids or in several files (/0.png, /copy.png; /1.png: ids 1, 10); they "
        "count as one picture each (data.identity: bytes)",
    ]
    assert any("they count as several pictures" in line for line in contradictions(open_pairs(source, identity="id")))
    notes = build_tables(DataConfig(sources=[str(source)])).notes
    assert sum("stand under several ids" in line for line in notes) == 1


def test_many_contradictions_are_counted(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path / f"{number}.png", noise(0))
    (line,) = contradictions(open_pairs(listed(tmp_path, [f"{number}.png" for number in range(8)])))
    assert "1 picture stands under several ids or in several files (" in line
    assert "2.png, and 5 more)" in line


def test_missing_pictures_are_counted_at_once_in_every_split(tmp_path: Path) -> None:
    for number in range(60):
        put(tmp_path / f"{number}.png", noise(number, (4, 4)))
    splits = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    source = listed(tmp_path, [f"{number}.png" for number in range(60)], split=splits)
    for number in (3, 45):
        (tmp_path / f"{number}.png").unlink()
    tables = build_tables(DataConfig(sources=[str(source)]))
    assert (len(tables.train), len(tables.validation or ()), len(tables.test or ())) == (39, 9, 10)
    assert tables.notes == (
        f"left out: 1 of 40 pictures of pairs (train) are missing: {tmp_path / '3.png'}",
        f"left out: 1 of 10 pictures of pairs (validation) are missing: {tmp_path / '45.png'}",
    )
    assert tables.train.skipped == [
        (str(tmp_path / "3.png"), "the picture is missing (train)"),
        (str(tmp_path / "45.png"), "the picture is missing (validation)"),
    ]
    (tmp_path / "46.png").unlink()
    with pytest.raises(
        DataError, match=r"2 of 10 pictures of pairs \(validation\) are missing: .*45\.png, .*46\.png; the limit is 5"
    ):
        build_tables(DataConfig(sources=[str(source)]))
    assert len(build_tables(DataConfig(sources=[str(source)], max_bad_fraction=0.2)).validation or ()) == 8
    for number in range(10, 40):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"31 of 40 .* \(train\) .*3\.png, .*10\.png, .*11\.png and 28 more files; the"):
        build_tables(DataConfig(sources=[str(source)], max_bad_fraction=0.2))


def test_an_unknown_identity_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^identity is 'pixels'; give bytes, file or id$"):
        DataConfig(identity="pixels")
    with pytest.raises(ConfigError, match=r"^identity is 'pixels'"):
        open_pairs("sample", identity="pixels")
