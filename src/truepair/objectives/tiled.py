"""The contrastive loss in tiles: exact sums and gradients with O(B D) memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from truepair.devices import sent
from truepair.objectives.srcl import Regulation
from truepair.objectives.sums import DirectionSums, RunningLogSumExp, RunningSum
from truepair.relations.pairs import PairSet

# Sums of a million exponentials of it, and their reciprocals, are finite.
_MODERATE = {torch.float32: 70.0, torch.float64: 600.0}


class Exponentials(ABC):
    """What is kept of a tile of logits z, and how sums and gradients follow from it.

    Attributes:
        nothing: Value of a cell that does not take part.
    """

    nothing: float

    @abstractmethod
    def prepared(self, logits: Tensor) -> Tensor:
        """What is kept of a tile, in its place [R, C]."""

    @abstractmethod
    def running(self, length: int, dim: int, like: Tensor) -> RunningLogSumExp | RunningSum:
        """An empty running log-sum-exp of ``length`` anchors [length]."""

    @abstractmethod
    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """``grad * exp(z - log_sum)``, written to ``out``, which may be ``values``; the vectors broadcast [R, C]."""


class Shifted(Exponentials):
    """For any logits: the logits are kept, and each exponential is shifted by its anchor's maximum or sum."""

    nothing = -torch.inf

    def prepared(self, logits: Tensor) -> Tensor:
        """The logits themselves [R, C]."""
        return logits

    def running(self, length: int, dim: int, like: Tensor) -> RunningLogSumExp:
        """With a running maximum [length]."""
        return RunningLogSumExp(length, dim, like)

    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """By an exponential [R, C]."""
        return torch.sub(values, log_sum, out=out).exp_().mul_(grad)


class Moderate(Exponentials):
    """For logits of moderate size: their exponentials are kept."""

    nothing = 0.0

    def prepared(self, logits: Tensor) -> Tensor:
        """The exponentials [R, C]."""
        return logits.exp_()

    def running(self, length: int, dim: int, like: Tensor) -> RunningSum:
        """A plain sum [length]."""
        return RunningSum(length, dim, like)

    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """By a product [R, C]."""
        return torch.mul(values, grad * (-log_sum).exp(), out=out)


def exponentials_for(queries: Tensor, keys: Tensor, scale: Tensor, regulation: Regulation | None) -> Exponentials:
    """The cheaper way that is safe for features [Bq, E] and [Bk, E]; NaN and infinity take the one for any logits."""
    longest = queries.norm(dim=1).amax() * keys.norm(dim=1).amax()
    largest = float(longest * scale.abs()) + (regulation.config.largest_log_weight if regulation else 0.0)
    return Moderate() if largest <= _MODERATE[queries.dtype] else Shifted()


Cells = tuple[Tensor, Tensor]
"""Rows and columns of some cells inside a tile."""


@dataclass(frozen=True)
class FixedCells:
    """Cells that are left out of the sums of a direction, sorted into tiles.

    Attributes:
        rows: Row inside its tile, int64 [P].
        columns: Column inside its tile, int64 [P].
        order: Its place in the set, int64 [P].
        bounds: Where each tile's cells start, row-major over the tiles.
        per_row: Number of cells in each row of the matrix [Bq].
        per_column: Number of cells in each column [Bk].
    """

    rows: Tensor  # [P]
    columns: Tensor  # [P]
    order: Tensor  # [P]
    bounds: list[int]
    per_row: Tensor  # [Bq]
    per_column: Tensor  # [Bk]

    @classmethod
    def of(cls, cells: PairSet | None, tile: int, device: torch.device) -> "FixedCells | None":
        """Sort cells into tiles; None where there are none.

        Args:
            cells: The set, each cell once; where it is on the host, no device is waited for.
            tile: Rows and columns of a tile.
            device: Where the tiles are.
        """
        if cells is None or len(cells) == 0:
            return None
        down, across = (-(-length // tile) for length in cells.shape)
        bucket, order = torch.sort((cells.rows // tile) * across + cells.columns // tile)
        bounds = torch.searchsorted(bucket, torch.arange(down * across + 1, device=bucket.device)).tolist()
        rows, columns = cells.rows[order] % tile, cells.columns[order] % tile
        per_row = torch.bincount(cells.rows, minlength=cells.shape[0])
        per_column = torch.bincount(cells.columns, minlength=cells.shape[1])
        rows, columns, order, per_row, per_column = (
            sent(part, device) for part in (rows, columns, order, per_row, per_column)
        )
        return cls(rows, columns, order, bounds, per_row, per_column)

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
    """All tiles of queries [Bq, E] by keys [Bk, E], row by row; the tensors of one are overwritten by the next."""
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


TILE = 2048
"""Rows and columns of a tile: 16 MiB of float32. Half of it is as fast on an idle machine; on a busy one the threads
wait for each other after each operation, and there are four times as many."""


def tiled_sums(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    row_fixed: PairSet | None,
    column_fixed: PairSet | None,
    regulation: Regulation | None,
    *,
    symmetric: bool,
    key_gradient: bool,
    tile: int = TILE,
) -> tuple[DirectionSums, DirectionSums | None]:
    """Log-sum-exp of the free candidates per query and, if ``symmetric``, per key, without the matrix of logits.

    Args:
        queries: Features [Bq, D].
        keys: Features [Bk, D].
        scale: 1 / temperature, scalar.
        row_fixed: Cells left out of the row sums [Bq, Bk].
        column_fixed: Cells left out of the column sums [Bq, Bk].
        regulation: Weights u of the free candidates; None: all 1.
        symmetric: Whether the keys are anchors too.
        key_gradient: Whether an anchor's candidates get a gradient.
        tile: Rows and columns of a tile.

    Returns:
        Sums of the rows and of the columns, equal to those of the dense form.
    """
    exponentials = exponentials_for(queries.detach(), keys.detach(), scale.detach(), regulation)
    by_row, by_column = (
        FixedCells.of(None if cells is None else cells.distinct(), tile, queries.device)
        for cells in (row_fixed, column_fixed)
    )
    task = _Task(TilePlan(tile, exponentials, by_row, by_column, regulation), symmetric, key_gradient)
    row_sum, row_mean, column_sum, column_mean = _TiledSums.apply(queries, keys, scale, task)
    rows = DirectionSums(row_sum, row_mean if regulation else None)
    return rows, DirectionSums(column_sum, column_mean if regulation else None) if symmetric else None


@dataclass(frozen=True)
class _Task:
    """What both passes need to know besides the tensors with a gradient."""

    plan: TilePlan
    symmetric: bool
    key_gradient: bool


class _Sums:
    """Running sums of one direction: the weighted logits, and the weights themselves when there is a regulation."""

    def __init__(self, length: int, dim: int, like: Tensor, plan: TilePlan) -> None:
        self.dim, self.nothing = dim, plan.exponentials.nothing
        self.logits = plan.exponentials.running(length, dim, like)
        self.weights = RunningSum(length, dim, like)

    def add(self, tile: Tile, weights: Tensor | None) -> None:
        """Take in a tile and its weights, without the cells that are fixed in this direction."""
        where, fixed = (tile.rows, tile.row_fixed) if self.dim == 1 else (tile.columns, tile.column_fixed)
        with without(tile.values, fixed, self.nothing) as values:
            self.logits.add(values, where, tile.work)
        if weights is not None:
            with without(weights, fixed, 0.0):
                self.weights.add(weights, where, tile.work)

    def log_mean_weight(self, candidates: int, fixed: FixedCells | None) -> Tensor:
        """Log of the mean weight; 0 for anchors without a free candidate [A]."""
        count = torch.full_like(self.weights.total, candidates)
        if fixed is not None:
            count = count - (fixed.per_row if self.dim == 1 else fixed.per_column)
        return torch.where(count == 0, 0.0, self.weights.result() - count.clamp(min=1).log())


class _TiledSums(torch.autograd.Function):
    """Row and column log-sum-exp with their gradients; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, task: _Task) -> tuple[Tensor, ...]:
        """Log-sums and log-mean-weights of the rows, then of the columns."""
        plan = task.plan
        rows, columns = _Sums(len(queries), 1, queries, plan), _Sums(len(keys), 0, keys, plan)
        for tile in tiles(queries, keys, scale, plan):
            weights = None if tile.log_weights is None else tile.log_weights.exp_()
            rows.add(tile, weights)
            if task.symmetric:
                columns.add(tile, weights)
        row_mean = rows.log_mean_weight(len(keys), plan.row_fixed)
        column_mean = columns.log_mean_weight(len(queries), plan.column_fixed)
        row_sum, column_sum = rows.logits.result(), columns.logits.result()
        ctx.save_for_backward(queries, keys, scale, row_sum, column_sum)
        ctx.task = task
        ctx.mark_non_differentiable(row_mean, column_mean)
        return row_sum, row_mean, column_sum, column_mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_grad: Tensor, _: Tensor, column_grad: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and scale."""
        queries, keys, scale, row_sum, column_sum = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):
            gradients = _Gradients(queries, keys, scale, ctx.task, ctx.needs_input_grad)
            gradients.run((row_sum, row_grad), (column_sum, column_grad))
        return *gradients.result(), None


class _Gradients:
    """Gradients of the sums, gathered over the tiles: G_ij = g_i exp(z_ij - lse_i), and the same for the columns."""

    def __init__(self, queries: Tensor, keys: Tensor, scale: Tensor, task: _Task, needed: tuple[bool, ...]) -> None:
        self.queries, self.keys, self.scale, self.task = queries, keys, scale, task
        self.of_queries = torch.zeros_like(queries)
        # Where keys are anchors whose candidates have no gradient, the scale's gradient has a part that only they see.
        for_scale = needed[2] and task.symmetric and not task.key_gradient
        for_keys = needed[1] and (task.symmetric or task.key_gradient)
        self.of_keys = torch.zeros_like(keys) if for_keys or for_scale else None

    def run(self, row: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor]) -> None:
        """Go over the tiles; each direction gives its log-sums and their gradients."""
        # An anchor without candidates has no gradient: exp(-inf - 0) is 0, where exp(-inf + inf) would be NaN.
        row_sum, column_sum = (lse.masked_fill(lse == -torch.inf, 0.0) for lse, _ in (row, column))
        exponentials = self.task.plan.exponentials
        for tile in tiles(self.queries, self.keys, self.scale, self.task.plan):
            with without(tile.values, tile.row_fixed, exponentials.nothing) as values:
                anchors = tile.rows, None
                by_rows = exponentials.gradient(values, row_sum[anchors], row[1][anchors], out=tile.work)
            if not self.task.symmetric:
                self._add(tile, by_rows, by_rows if self.task.key_gradient else None)
                continue
            with without(tile.values, tile.column_fixed, exponentials.nothing) as values:
                by_columns = exponentials.gradient(
                    values, column_sum[tile.columns], column[1][tile.columns], out=values
                )
                if self.task.key_gradient:
                    by_rows = by_columns = by_columns.add_(by_rows)
                self._add(tile, by_rows, by_columns)

    def _add(self, tile: Tile, for_queries: Tensor, for_keys: Tensor | None) -> None:
        self.of_queries[tile.rows].addmm_(for_queries, self.keys[tile.columns])
        if self.of_keys is not None and for_keys is not None:
            self.of_keys[tile.columns].addmm_(for_keys.T, self.queries[tile.rows])

    def result(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients of queries, keys and scale. The scale's follows from the others: sum_ij G_ij q_i . k_j."""
        of_scale = (self.of_queries * self.queries).sum()
        if self.of_keys is not None and not self.task.key_gradient:
            of_scale = of_scale + (self.of_keys * self.keys).sum()
        of_keys = None if self.of_keys is None else self.of_keys.mul_(self.scale)
        return self.of_queries.mul_(self.scale), of_keys, of_scale
