"""Pairs: cells (image row, text row) of a batch matrix with a value each, and which of them match for certain."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from truepair.devices import sent

Side = Literal["i2t", "t2i"]
"""Who asks: images for texts, or texts for images."""

SIDES: tuple[Side, Side] = ("i2t", "t2i")


@dataclass(frozen=True)
class PairSet:
    """Cells of a [rows, columns] matrix: what is known about a few pairs of a batch, without the B x B matrix.

    The one container of pairs. What a value means is the business of whoever holds the set: a share of the target, a
    weight, a probability of matching.

    Sets of a batch are made and combined on the host, and sent to the device once nothing more is to be decided: how
    many cells a result has is for the data to say, and a GPU that is asked runs dry until it has answered.

    Attributes:
        rows: Row of each cell, int64 [P].
        columns: Column of each cell, int64 [P].
        values: Value of each cell, floating point [P].
        shape: Number of rows and columns of the matrix.
        by_row: Whether the row's side found the cell, bool [P]; None: both sides found all.
        by_column: Whether the column's side found it, bool [P]; None with ``by_row``.
    """

    rows: Tensor  # [P]
    columns: Tensor  # [P]
    values: Tensor  # [P]
    shape: tuple[int, int]
    by_row: Tensor | None = None  # [P]
    by_column: Tensor | None = None  # [P]

    def __post_init__(self) -> None:
        if not self.rows.shape == self.columns.shape == self.values.shape or self.rows.dim() != 1:
            raise ValueError("rows, columns and values of a PairSet must be vectors of one length.")

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def diagonal(
        cls, rows: int, columns: int, offset: int = 0, *, device: torch.device | str | None = None
    ) -> "PairSet":
        """Each row's own pair: cell (i, i + offset) with value 1.

        Args:
            rows: Number of rows; each has a cell.
            columns: Number of columns.
            offset: Column of row 0, for a rank whose rows meet columns gathered over all ranks.
            device: Where the tensors live.

        Raises:
            ValueError: If a row's own column would lie outside the matrix.
        """
        if offset < 0 or rows + offset > columns:
            raise ValueError(f"{rows} rows at offset {offset} have no own column among {columns}; check the offset.")
        index = torch.arange(rows, device=device)
        return cls(index, index + offset, torch.ones(rows, device=device), (rows, columns))

    @classmethod
    def empty(cls, rows: int, columns: int, *, device: torch.device | str | None = None) -> "PairSet":
        """No cell of a matrix."""
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return cls(nothing, nothing, nothing.float(), (rows, columns))

    @classmethod
    def from_dense(cls, matrix: Tensor, where: Tensor | None = None) -> "PairSet":
        """The cells of a dense matrix [R, C] that are True, non-zero, or chosen by the mask ``where`` [R, C]."""
        rows, columns = torch.nonzero(matrix if where is None else where, as_tuple=True)
        values = matrix[rows, columns]
        return cls(rows, columns, values if values.is_floating_point() else values.float(), _shape(matrix))

    @classmethod
    def joined(cls, *sets: "PairSet") -> "PairSet":
        """The cells of several sets of one shape, one set behind the other; a cell of two sets is there twice."""
        rows = torch.cat([s.rows for s in sets])
        columns = torch.cat([s.columns for s in sets])
        values = torch.cat([s.values.to(sets[0].values.dtype) for s in sets])
        return cls(rows, columns, values, sets[0].shape)

    @classmethod
    def union(cls, *sets: "PairSet") -> "PairSet":
        """All cells of several sets of one shape; where a cell is in more than one, the first set's value stays."""
        return cls.joined(*sets).distinct()

    @property
    def linear(self) -> Tensor:
        """Position of each cell in the flattened matrix, int64 [P]."""
        return self.rows * self.shape[1] + self.columns

    @property
    def T(self) -> "PairSet":  # noqa: N802 - the name tensors use
        """The transposed set."""
        return PairSet(
            self.columns, self.rows, self.values, (self.shape[1], self.shape[0]), self.by_column, self.by_row
        )

    @property
    def device(self) -> torch.device:
        """Where the cells are."""
        return self.rows.device

    def to(self, device: torch.device | str) -> "PairSet":
        """The same set on another device; from the host it is sent there without a wait."""
        if self.device == torch.device(device):
            return self
        rows, columns, values = (sent(part, device) for part in (self.rows, self.columns, self.values))
        sides = (None if side is None else sent(side, device) for side in (self.by_row, self.by_column))
        return PairSet(rows, columns, values, self.shape, *sides)

    def on_host(self) -> "PairSet":
        """The same set on the host; a device is waited for twice, and not for each column."""
        if self.device.type == "cpu":
            return self
        sides = () if self.by_row is None or self.by_column is None else (self.by_row.long(), self.by_column.long())
        rows, columns, *found_by = torch.stack([self.rows, self.columns, *sides]).cpu()
        return PairSet(rows, columns, self.values.cpu(), self.shape, *(side.bool() for side in found_by))

    def with_values(self, values: Tensor) -> "PairSet":
        """The same cells with other values [P]."""
        return PairSet(self.rows, self.columns, values, self.shape, self.by_row, self.by_column)

    def where(self, keep: Tensor) -> "PairSet":
        """The cells chosen by a bool mask or an index [P]."""
        if not len(self):
            return self  # a device would have to be waited for to say that it found none
        if keep.dtype == torch.bool:
            keep = keep.nonzero()[:, 0]  # once, not for each column
        sides = (None if side is None else side[keep] for side in (self.by_row, self.by_column))
        return PairSet(self.rows[keep], self.columns[keep], self.values[keep], self.shape, *sides)

    def found_by(self, side: Side) -> "PairSet":
        """The cells that images ("i2t", rows) or texts ("t2i", columns) found; all of a set that has no sides."""
        found = self.by_row if side == "i2t" else self.by_column
        return self if found is None else self.where(found)

    def mutual(self) -> "PairSet":
        """The same cells, as if both sides had found each."""
        return PairSet(self.rows, self.columns, self.values, self.shape)

    def of_rows(self, start: int, stop: int) -> "PairSet":
        """The cells of the rows from ``start`` to ``stop``, as a matrix of those rows [stop - start, C]."""
        inside = (self.rows >= start) & (self.rows < stop)
        shape = (stop - start, self.shape[1])
        return PairSet(self.rows[inside] - start, self.columns[inside], self.values[inside], shape)

    def widened(self, columns: int) -> "PairSet":
        """The same cells in a matrix that has further columns behind these [R, columns]."""
        return PairSet(self.rows, self.columns, self.values, (self.shape[0], columns))

    def first_of_each(self) -> Tensor:
        """Index of the first occurrence of each cell, ordered by row and column, int64 [<= P]."""
        if not len(self):
            return self.rows
        linear, order = torch.sort(self.linear, stable=True)
        first = torch.ones_like(linear, dtype=torch.bool)
        first[1:] = linear[1:] != linear[:-1]
        return order[first]

    def distinct(self) -> "PairSet":
        """Each cell once, ordered by row and column; the first value of a repeated cell stays."""
        return self.where(self.first_of_each())

    def firsts(self) -> Tensor:
        """For each cell the index of its first occurrence, int64 [P].

        What :meth:`distinct` would leave out is told from the rest without asking the data how much it is.
        """
        linear, order = torch.sort(self.linear, stable=True)
        return order[torch.searchsorted(linear, self.linear)]

    def contains(self, other: "PairSet") -> Tensor:
        """Which cells of another set of the same shape are in this one, bool [len(other)]."""
        return torch.isin(other.linear, self.linear)

    def overridden_by(self, other: "PairSet") -> "PairSet":
        """The same cells, with the (first) values of another set of the same shape where that has them."""
        if not len(other):
            return self
        linear, order = torch.sort(other.linear, stable=True)
        place = torch.searchsorted(linear, self.linear).clamp(max=len(other) - 1)  # [P]
        theirs = other.values[order[place]].to(self.values.dtype)
        return self.with_values(torch.where(linear[place] == self.linear, theirs, self.values))

    def row_sums(self) -> Tensor:
        """Sum of the values of each row [R]."""
        zeros = torch.zeros(self.shape[0], dtype=self.values.dtype, device=self.values.device)
        return zeros.index_add(0, self.rows, self.values)

    def normalised(self) -> "PairSet":
        """Values divided by the sum of their row; rows without a cell stay empty."""
        sums = self.row_sums()[self.rows]
        return self.with_values(self.values / sums.masked_fill(sums == 0, 1.0))

    def dense(self, fill: float = 0.0) -> Tensor:
        """The matrix [R, C], with ``fill`` elsewhere."""
        matrix = torch.full(self.shape, fill, dtype=self.values.dtype, device=self.values.device)
        matrix[self.rows, self.columns] = self.values
        return matrix

    def mask(self) -> Tensor:
        """True at the cells of the set, bool [R, C]."""
        matrix = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        matrix.view(-1).index_fill_(0, self.linear, True)
        return matrix


def _shape(matrix: Tensor) -> tuple[int, int]:
    rows, columns = matrix.shape
    return rows, columns


def same_pair(
    image_ids: Tensor, caption_keys: Tensor, images: slice = slice(None), texts: slice = slice(None)
) -> Tensor:
    """Which (image i, text j) of a batch of pairs are one image or one text, so that calling them negatives is wrong.

    Args:
        image_ids: Image id of each pair of the batch, int64 [B].
        caption_keys: Key of the normalised caption text of each pair (``caption_key``), int64 [B].
        images: Which rows are asked for; R of them.
        texts: Which columns; C of them.

    Returns:
        bool [R, C]; of all rows and columns symmetric, True on the diagonal.
    """
    same_image = image_ids[images, None] == image_ids[None, texts]
    return same_image | (caption_keys[images, None] == caption_keys[None, texts])
