"""What a table's truth columns say about undeclared pairs of its rows."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.data.table import PairTable
from truepair.evaluation.gallery import CaptionGallery
from truepair.relations.identity import same_pair
from truepair.relations.text import caption_key


class PairTruth:
    """Whether a caption text is known to be true of the image of a row.

    It serves measurement, and the fitting of judges on clean data; training never sees it.

    Args:
        rows: row of each known match, int64 [M].
        keys: caption key of each known match, int64 [M].
    """

    def __init__(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        self._keys = np.unique(keys)  # [K]
        self._matches = np.unique(rows * len(self._keys) + np.searchsorted(self._keys, keys))  # [M], row-major

    @classmethod
    def from_table(cls, table: PairTable) -> "PairTruth | None":
        """The truth of a table: its ``names``, widened to all rows of a ``group``; None if it states neither.

        Of a row that states neither, only its own captions are true.
        """
        names, groups = _column(table, "names"), _column(table, "group")
        if names is None and groups is None:
            return None
        gallery = CaptionGallery.from_names(table.values("captions"), names, groups)
        keys = np.array([caption_key(text) for text in gallery.texts], dtype=np.int64)
        rows, texts = gallery.truth.true.numpy().T
        return cls(rows, keys[texts])

    def matches(self, rows: Tensor, caption_keys: Tensor) -> Tensor:
        """Whether captions are true of the images of rows.

        Args:
            rows: rows of the table, int64 [P].
            caption_keys: keys of the captions' normalised texts, int64 [P].

        Returns:
            bool [P], on the device of ``rows``.
        """
        keys = caption_keys.cpu().numpy()
        number = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)  # [P]
        cells = rows.cpu().numpy() * len(self._keys) + number
        place = np.minimum(np.searchsorted(self._matches, cells), len(self._matches) - 1)
        return torch.from_numpy((self._matches[place] == cells) & (self._keys[number] == keys)).to(rows.device)

    def hidden_matches(self, batch: PairBatch) -> Tensor:
        """The false negatives of a batch: true pairs that share neither image id nor caption text, bool [B, B]."""
        shape = (len(batch), len(batch))
        rows = batch.source_index[:, None].expand(shape)
        keys = batch.caption_key[None, :].expand(shape)
        true = self.matches(rows.flatten(), keys.flatten()).view(shape)
        return true & ~same_pair(batch.image_id, batch.caption_key)


def _column(table: PairTable, name: str) -> list[Any] | None:
    """A column of the table; None if it is absent or empty."""
    values = table.values(name) if name in table.rows.column_names else []
    return values if any(value is not None for value in values) else None
