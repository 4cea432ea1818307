"""Fingerprints of what a run reads of a table, wherever its files lie: a run that goes on compares them."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

import numpy as np
from datasets import Dataset

from truepair.data.table import PairTable

_AT_ONCE = 1 << 14  # texts that are joined at once


def table_fingerprints(table: PairTable) -> dict[str, str]:
    """Fingerprints of the rows of a table, in order: about a second for a million.

    Returns:
        ``captions``: texts and ids. ``pictures``: ids and, with ``data.identity`` "bytes", what lies in the files: the
        whole of a small one; size, beginning, middle and end of one over 64 kB. ``groups``: the ``group`` column.
    """
    captions = _Hash()
    captions.texts(table.captions())
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

    def numbers(self, *arrays: np.ndarray) -> None:
        """Take in whole numbers [N], and how many they are."""
        for array in arrays:
            self._state.update(f"{len(array)} ".encode())
            self._state.update(np.ascontiguousarray(array, np.int64).data)
