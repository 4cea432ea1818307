"""How many false negatives a batch of random pairs holds, by what is the same for certain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BatchDraws:
    """What a training run draws: a picture for each row, and one of the row's captions.

    Attributes:
        rows: number of the row of each caption, int64 [S].
        pictures: number of its picture [S].
        texts: key of its text [S].
        chances: with what probability a visit of the row draws it, float64 [S].
    """

    rows: Integers
    pictures: Integers
    texts: Integers
    chances: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Integers, pictures: Integers, texts: Integers, captions: str) -> "BatchDraws":
        """What is drawn.

        Args:
            rows: row of each caption, in order [S].
            pictures: its picture [S].
            texts: key of its text [S].
            captions: "draw", "first" or "pairs", as in ``DataConfig``.
        """
        if captions == "pairs":
            return cls(np.arange(len(rows)), pictures, texts, np.ones(len(rows)))
        _, starts, counts = np.unique(rows, return_index=True, return_counts=True)
        if captions == "first":
            return cls(rows[starts], pictures[starts], texts[starts], np.ones(len(starts)))
        return cls(rows, pictures, texts, 1 / np.repeat(counts, counts))

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(np.unique(self.rows))

    def expected(self, batch: int) -> float:
        """Expected cells of a batch off its diagonal whose picture and caption belong together for certain.

        A cell is the picture of one row with the caption of another one; they belong together where both rows have one
        picture, or where both draw one text.

        Args:
            batch: N, rows that are drawn without putting back, at most all.
        """
        count = self.count
        if count < 2:
            return 0.0
        both = np.stack([self.pictures, self.texts])
        _, pair = np.unique(both, axis=1, return_inverse=True)
        meet = self._meet(self.pictures) + self._meet(self.texts) - self._meet(pair)
        return float(max(meet, 0.0) * batch * (batch - 1) / (count * (count - 1)))

    def _meet(self, labels: Integers) -> float:
        """Sum over ordered pairs of different rows of the probability that they draw the same label."""
        _, number = np.unique(labels, return_inverse=True)
        whole = np.bincount(number, self.chances)
        cells, place = np.unique(np.stack([self.rows, number]), axis=1, return_inverse=True)
        own = np.bincount(place, self.chances, minlength=cells.shape[1])
        return float((whole**2).sum() - (own**2).sum())
