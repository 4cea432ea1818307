"""Each known column of each format with each wrong value: it is read, left out with a reason, or refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture
from truepair.data import open_pairs
from truepair.errors import DataError

LATIN = "caf\udce9"  # as a file in latin-1 is read

VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", "x" * 20_000, LATIN, "\ud800", "a\0b",
    "a\nb", [], [1], [None], [[1]], [LATIN], [{"a": 1}], {}, {"a": 1}, {"bytes": "text", "path": 3}, {"path": ["x"]},
]  # fmt: skip

ROWS = 12


def rows() -> list[dict[str, Any]]:
    return [
        {
            "image": f"{number}.png",
            "caption": f"picture number {number}",
            "image_id": number,
            "split": "train",
            "group": f"group {number % 3}",
            "family": f"family {number % 2}",
            "names": [f"picture number {number}"],
            "caption_ids": [number],
            "camera": "a camera",
        }
        for number in range(ROWS)
    ]


def dumped(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value).encode() if "\ud800" in text else text.encode("utf-8", "surrogateescape")


def jsonl(root: Path, stated: list[dict[str, Any]]) -> Path:
    (root / "list.jsonl").write_bytes(b"\n".join(map(dumped, stated)))
    return root / "list.jsonl"


def albef(root: Path, stated: list[dict[str, Any]]) -> Path:
    (root / "list.json").write_bytes(b"[" + b",\n".join(map(dumped, stated)) + b"]")
    return root / "list.json"


def karpathy(root: Path, stated: list[dict[str, Any]]) -> Path:
    images = [
        {
            "filename": row["image"],
            "imgid": row["image_id"],
            "split": row["split"],
            "filepath": row["family"] if not isinstance(row["family"], str) else "",
            "sentences": [{"raw": row["caption"], "sentid": row["caption_ids"]}] if row["names"] else row["names"],
        }
        for row in stated
    ]
    (root / "karpathy.json").write_bytes(dumped({"images": images}))
    return root / "karpathy.json"


def coco(root: Path, stated: list[dict[str, Any]]) -> Path:
    images = [{"id": row["image_id"], "file_name": row["image"]} for row in stated]
    annotations = [
        {"id": row["caption_ids"], "image_id": row["image_id"], "caption": row["caption"]} for row in reversed(stated)
    ]
    (root / "coco.json").write_bytes(dumped({"annotations": annotations, "images": images}))
    return root / "coco.json"


def folder(root: Path, stated: list[dict[str, Any]]) -> Path:
    for number, row in enumerate(stated):
        (root / f"{number}.json").write_bytes(dumped({name: row[name] for name in row if name != "image"}))
    return root


FORMATS = [jsonl, albef, karpathy, coco, folder]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("column", rows()[0])
def test_a_wrong_value_is_no_traceback(write: Callable[..., Path], column: str, tmp_path: Path) -> None:
    chosen = random.Random(f"{write.__name__} {column}").sample(VALUES, 8)
    for number, value in enumerate(chosen):
        root = tmp_path / str(number)
        root.mkdir()
        for row in range(ROWS):
            (root / f"{row}.png").write_bytes(encoded(picture()))
        stated = rows()
        stated[number % ROWS][column] = value
        try:
            table = open_pairs(write(root, stated), max_skipped=0.5)
        except DataError as error:
            assert len(str(error)) < 1000, value
        else:
            assert len(table) >= ROWS - 1, value
            table.rows[:]


@pytest.mark.parametrize("column", ["split", "group", "family"])
@pytest.mark.parametrize("value", [LATIN, "x" * 20_000])
def test_a_row_whose_group_is_no_usable_text_is_left_out(column: str, value: str, tmp_path: Path) -> None:
    for row in range(ROWS):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture()))
    stated = rows()
    stated[3][column] = value

    table = open_pairs(jsonl(tmp_path, stated))

    why = "is not UTF-8" if value == LATIN else "has 20000 characters, more than max_caption_length"
    assert table.skipped == [("list.jsonl line 4", f"its {column} {why}")]
    assert len(table) == ROWS - 1


def test_names_and_further_columns_lose_no_row(tmp_path: Path) -> None:
    for row in range(ROWS):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture()))
    stated = rows()
    stated[3] |= {"names": ["good", LATIN, 5], "camera": LATIN}

    table = open_pairs(jsonl(tmp_path, stated))

    assert table.skipped == [
        ("list.jsonl line 4, names", "it is not UTF-8"),
        ("list.jsonl line 4, names", "it is not text but 5"),
        ("list.jsonl line 4, camera", "it is not UTF-8"),
    ]
    assert table.rows["names"][3] == ["good"]
    assert table.rows["camera"][3] is None


@pytest.mark.parametrize("where", ["images", "annotations"])
def test_an_id_that_joins_nothing_is_refused(where: str, tmp_path: Path) -> None:
    content = {
        "images": [{"id": [1] if where == "images" else 1, "file_name": "0.png"}],
        "annotations": [{"image_id": {"a": 1} if where == "annotations" else 1, "caption": "a picture"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"coco.json (image|annotation) 1.* no (image_)?id that is a number or a text"):
        open_pairs(tmp_path / "coco.json")


def test_bytes_of_a_parquet_file_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    for row in range(ROWS):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture()))
    texts = [row["caption"].encode() if row["image_id"] != 3 else b"caf\xe9" for row in rows()]
    columns = {
        "image": pa.array([row["image"] for row in rows()]),
        "caption": pa.Array.from_buffers(pa.string(), ROWS, pa.array(texts, pa.binary()).buffers()),
        "names": pa.array([row["names"] for row in rows()]),
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")

    table = open_pairs(tmp_path / "list.parquet")

    assert table.skipped == [("list.parquet row 3", "its caption is not UTF-8")]
    assert table.rows["names"][0] == ["picture number 0"]


def test_numbers_that_are_missing_are_no_group(tmp_path: Path) -> None:
    for row in range(ROWS):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture()))
    columns = {name: [row[name] for row in rows()] for name in ("image", "caption")}
    pq.write_table(pa.table({**columns, "group": [float("nan")] * ROWS}), tmp_path / "list.parquet")

    assert "group" not in open_pairs(tmp_path / "list.parquet").rows.column_names
