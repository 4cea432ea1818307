"""Fingerprints of what a run reads of a table, wherever its files lie: a run that goes on compares them."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from truepair.data.table import PairTable

_AT_ONCE = 1 << 14  # texts that are joined at once


def table_fingerprints(table: PairTable) -> dict[str, str]:
    """Fingerprints of the rows of a table, in order: a quarter of a second for a million.

    Returns:
        ``captions``: texts and ids. ``pictures``: ids and, with ``data.identity`` "bytes", what lies in the files: the
        whole of a small one; size, beginning, middle and end of one over 64 kB. ``groups``: the ``group`` column.
    """
    captions = _Hash()
    captions.arrays(table.caption_blocks())
    captions.numbers(table.caption_counts, table.caption_ids)
    pictures, contents = _Hash(), table.contents
    pictures.numbers(table.image_ids, contents.sketch[contents.number])
    groups = _Hash()
    if "group" in table.rows.column_names:
        groups.texts(json.dumps(group) for group in table.values("group"))
    return {"captions": captions.digest, "pictures": pictures.digest, "groups": groups.digest}


def rows_fingerprint(rows: Dataset) -> str:
    """A fingerprint of rows of JSON types, in order."""
    found = _Hash()
    found.texts(json.dumps(row, sort_keys=True, default=str) for row in rows)
    return found.digest


class _Hash:
    """A hash of texts and numbers."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return self._state.hexdigest()

    def texts(self, texts: Iterable[str]) -> None:
        """Take in texts, and where each ends."""
        rest = iter(texts)
        while part := list(islice(rest, _AT_ONCE)):
            self.numbers(np.array([len(text) for text in part]))
            self._state.update("".join(part).encode("utf-8", "surrogatepass"))

    def arrays(self, blocks: Iterable[pa.ChunkedArray]) -> None:
        """Take in texts of Arrow as :meth:`texts` does, several times faster."""
        rest = pa.chunked_array([], pa.large_string())
        for block in blocks:
            rest = pa.chunked_array([*rest.chunks, *pc.cast(block, pa.large_string()).chunks], pa.large_string())
            whole = len(rest) // _AT_ONCE * _AT_ONCE
            for start in range(0, whole, _AT_ONCE):
                self._part(rest.slice(start, _AT_ONCE))
            rest = rest.slice(whole)
        if len(rest):
            self._part(rest)

    def _part(self, texts: pa.ChunkedArray) -> None:
        self.numbers(pc.utf8_length(texts).to_numpy())
        for chunk in texts.chunks:
            _, offsets, content = chunk.buffers()
            ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            self._state.update(memoryview(content)[ends[0] : ends[-1]])

    def numbers(self, *arrays: np.ndarray) -> None:
        """Take in whole numbers [N], and how many they are."""
        for array in arrays:
            self._state.update(f"{len(array)} ".encode())
            self._state.update(np.ascontiguousarray(array, np.int64).data)
