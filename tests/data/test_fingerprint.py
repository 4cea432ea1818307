"""Fingerprints of what a run reads of a table, against a reference that reads text by text."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from truepair.data import PairTable
from truepair.data.fingerprint import table_fingerprints

CAPTIONS = [["a dog"], ["\u72d7", "", "Stra\u00dfe \U0001f436"], ["two"], ["cats", "on"], ["snow"], ["x" * 50]]


def table_in_parts(*sizes: int, large: bool = False) -> PairTable:
    """The captions in an Arrow table of some parts."""
    parts, start = [], 0
    kind = pa.list_(pa.large_string() if large else pa.string())
    for size in sizes:
        rows = range(start, start + size)
        start += size
        parts.append(
            pa.table(
                {
                    "image": pa.array([{"path": f"{row}.png"} for row in rows]),
                    "image_id": pa.array(rows, pa.int64()),
                    "captions": pa.array([CAPTIONS[row] for row in rows], kind),
                    "caption_ids": pa.array([[row * 9 + one for one in range(len(CAPTIONS[row]))] for row in rows]),
                    "split": pa.array(["train"] * size),
                }
            )
        )
    return PairTable(Dataset(pa.concat_tables(parts)))


def reference(at_once: int) -> str:
    """The fingerprint of the captions, as releases before read them: so many texts at a time."""
    texts = [text for row in CAPTIONS for text in row]
    state = hashlib.blake2b(digest_size=16)

    def numbers(values: list[int]) -> None:
        """Take in a list of numbers."""
        state.update(f"{len(values)} ".encode() + np.array(values, np.int64).tobytes())

    for start in range(0, len(texts), at_once):
        numbers([len(text) for text in texts[start : start + at_once]])
        state.update("".join(texts[start : start + at_once]).encode())
    numbers([len(row) for row in CAPTIONS])
    numbers([row * 9 + one for row, texts in enumerate(CAPTIONS) for one in range(len(texts))])
    return state.hexdigest()


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_captions_however_they_lie(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("truepair.data.fingerprint._AT_ONCE", at_once)
    expected = reference(at_once)
    for block in (1, 4, 100):
        monkeypatch.setattr("truepair.data.table.BLOCK", block)
        for table in (table_in_parts(6), table_in_parts(1, 2, 3), table_in_parts(2, 4, large=True)):
            assert table_fingerprints(table)["captions"] == expected
    assert table_fingerprints(table_in_parts(6).select([1, 0, 2, 3, 4, 5]))["captions"] != expected
