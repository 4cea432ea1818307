"""Rows of long Arrow columns."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Rows taken at once of columns whose values are short."""

IMAGES = 1 << 10
"""Rows taken at once of columns that may hold images: Arrow cannot put more than 2 GB into one array."""


def take_rows(column: pa.ChunkedArray, rows: NDArray[np.int64], block: int = BLOCK) -> pa.ChunkedArray:
    """Some values of a column, in parts.

    Arrow's own ``take`` joins all parts of the column first, which for a few rows of a long column is most of the time,
    and fails where they hold more than 2 GB.

    Args:
        column: the column, in parts.
        rows: numbers of the values [M], in any order, repeated or not.
        block: how many are taken at once; only where their order is not that of the column are they joined.
    """
    parts = [part for taken in blocks_of_rows(column, rows, block) for part in taken.chunks]
    return pa.chunked_array(parts, column.type)


def blocks_of_rows(column: pa.ChunkedArray, rows: NDArray[np.int64], block: int = BLOCK) -> Iterator[pa.ChunkedArray]:
    """Some values of a column, so many at a time; see :func:`take_rows`."""
    chunks = column.chunks
    ends = np.cumsum([len(chunk) for chunk in chunks])
    for start in range(0, len(rows), block):
        yield pa.chunked_array(_block(chunks, rows[start : start + block], ends), column.type)


def _block(chunks: list[pa.Array], rows: NDArray[np.int64], ends: NDArray[np.int64]) -> list[pa.Array]:
    """The values of a block of rows, as one array or several."""
    ascending = bool((rows[1:] >= rows[:-1]).all())
    order = None if ascending else np.argsort(rows, kind="stable")
    ordered = rows if order is None else rows[order]
    numbers = np.searchsorted(ends, ordered, side="right")  # of the chunk that each lies in
    asked, starts = np.unique(numbers, return_index=True)
    parts = []
    for number, start, end in zip(asked.tolist(), starts, [*starts[1:], len(rows)], strict=True):
        chunk = chunks[number]
        parts.append(chunk.take(pa.array(ordered[start:end] - (ends[number] - len(chunk)))))
    if order is None:
        return parts
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return [pa.concat_arrays(parts).take(pa.array(place))]
