"""The matrix of logits, one tile at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.objectives.exponentials import Exponentials
from truepair.objectives.regulation import Regulation
from truepair.relations.pairs import PairSet

Cells = tuple[Tensor, Tensor]
"""Rows and columns of some cells inside a tile."""


@dataclass(frozen=True)
class FixedCells:
    """Cells that are left out of the sums of a direction, sorted into tiles.

    Attributes:
        rows: Row inside its tile, int64 [P].
        columns: Column inside its tile, int64 [P].
        bounds: Where each tile's cells start, row-major over the tiles.
        per_row: Number of cells in each row of the matrix [Bq].
        per_column: Number of cells in each column [Bk].
    """

    rows: Tensor  # [P]
    columns: Tensor  # [P]
    bounds: list[int]
    per_row: Tensor  # [Bq]
    per_column: Tensor  # [Bk]

    @classmethod
    def of(cls, cells: PairSet | None, tile: int) -> "FixedCells | None":
        """Sort cells into tiles; None where there are none."""
        if cells is None or len(cells) == 0:
            return None
        down, across = (-(-length // tile) for length in cells.shape)
        bucket, order = torch.sort((cells.rows // tile) * across + cells.columns // tile)
        bounds = torch.searchsorted(bucket, torch.arange(down * across + 1, device=bucket.device)).tolist()
        return cls(
            cells.rows[order] % tile,
            cells.columns[order] % tile,
            bounds,
            torch.bincount(cells.rows, minlength=cells.shape[0]),
            torch.bincount(cells.columns, minlength=cells.shape[1]),
        )

    def inside(self, tile_number: int) -> Cells | None:
        """The cells of one tile, or None."""
        first, last = self.bounds[tile_number], self.bounds[tile_number + 1]
        return (self.rows[first:last], self.columns[first:last]) if last > first else None


@dataclass(frozen=True)
class TilePlan:
    """How the tiles are computed.

    Attributes:
        size: Rows and columns of a tile.
        exponentials: What is kept of the logits.
        row_fixed: Cells left out of the row sums.
        column_fixed: Cells left out of the column sums.
        regulation: Weights u of the other cells; None: all 1.
    """

    size: int
    exponentials: Exponentials
    row_fixed: FixedCells | None
    column_fixed: FixedCells | None
    regulation: Regulation | None


@dataclass(frozen=True)
class Tile:
    """One tile of z = s + log u.

    Attributes:
        rows: Its rows in the matrix.
        columns: Its columns.
        values: z, or what the plan's exponentials keep of it [R, C].
        work: Scratch of the same shape [R, C].
        log_weights: log u, when there is a regulation [R, C].
        row_fixed: Cells left out of the row sums.
        column_fixed: Cells left out of the column sums.
    """

    rows: slice
    columns: slice
    values: Tensor  # [R, C]
    work: Tensor  # [R, C]
    log_weights: Tensor | None  # [R, C]
    row_fixed: Cells | None
    column_fixed: Cells | None


def tiles(queries: Tensor, keys: Tensor, scale: Tensor, plan: TilePlan) -> Iterator[Tile]:
    """All tiles, row by row; the tensors of one are overwritten by the next."""
    largest = min(plan.size, len(queries)) * min(plan.size, len(keys))
    buffers = [queries.new_empty(largest) for _ in range(2 if plan.regulation is None else 3)]
    number = 0
    for top in range(0, len(queries), plan.size):
        rows = slice(top, min(top + plan.size, len(queries)))
        for left in range(0, len(keys), plan.size):
            columns = slice(left, min(left + plan.size, len(keys)))
            shape = (rows.stop - top, columns.stop - left)
            logits, work, *more = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
            torch.mm(queries[rows], keys[columns].T, out=logits)
            log_weights = None
            if plan.regulation is None:
                logits.mul_(scale)
            else:
                log_weights = plan.regulation.log_weights(rows, columns, logits, (more[0], work))
                torch.addcmul(log_weights, logits, scale, out=logits)
            row_fixed = plan.row_fixed.inside(number) if plan.row_fixed else None
            column_fixed = plan.column_fixed.inside(number) if plan.column_fixed else None
            yield Tile(rows, columns, plan.exponentials.prepared(logits), work, log_weights, row_fixed, column_fixed)
            number += 1


class without:  # noqa: N801 - reads as a clause: with without(values, cells, nothing): ...
    """Within the block, the cells of a tile hold ``nothing``; afterwards they are what they were."""

    def __init__(self, values: Tensor, cells: Cells | None, nothing: float) -> None:
        self.values, self.cells, self.nothing = values, cells, nothing

    def __enter__(self) -> Tensor:
        if self.cells is not None:
            self.kept = self.values[self.cells]
            self.values[self.cells] = self.nothing
        return self.values

    def __exit__(self, *_: object) -> None:
        if self.cells is not None:
            self.values[self.cells] = self.kept
