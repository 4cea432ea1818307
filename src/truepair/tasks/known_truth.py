"""What a table's truth columns say of undeclared pairs, in a word each."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.data.table import PairTable
from truepair.mining.pair_truth import PairTruth

Indices = NDArray[np.int64]


class KnownTruth:
    """Verdicts on pairs of an image and a caption of another row.

    Args:
        table: with truth columns ``names`` or ``group``, and for near-matches ``family``, as far as it has them.
    """

    def __init__(self, table: PairTable) -> None:
        self._truth = PairTruth.from_table(table)
        names, groups = _column(table, "names"), _column(table, "group")
        stated = [name is not None or group is not None for name, group in zip(names, groups, strict=True)]
        self._stated = np.array(stated, dtype=bool)  # [N]
        numbers: dict[str, int] = {}
        families = [
            -1 if family is None else numbers.setdefault(family, len(numbers)) for family in _column(table, "family")
        ]
        self._families = np.array(families, dtype=np.int64)  # [N]

    def verdicts(self, images: Indices, captions: Indices, keys: Indices) -> NDArray[np.str_]:
        """What is known of pairs, each a :data:`truepair.tasks.marks.Verdict`.

        Args:
            images: row of each image, int64 [P].
            captions: row that each caption is declared in, int64 [P].
            keys: key of each caption's normalised text, int64 [P].

        Returns:
            Words [P].
        """
        if self._truth is None:
            return np.full(len(images), "unknown")
        true = self._truth.matches(torch.from_numpy(images), torch.from_numpy(keys)).numpy()
        family = self._families[images]
        near = (family >= 0) & (family == self._families[captions])
        unknown = ~self._stated[images]
        return np.select([unknown, true, near], ["unknown", "true", "near"], "false")


def _column(table: PairTable, name: str) -> list[Any]:
    """A column of the table; None everywhere if the table lacks it."""
    return list(table.rows[name]) if name in table.rows.column_names else [None] * len(table)
