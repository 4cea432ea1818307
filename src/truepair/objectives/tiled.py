"""The denominators of the contrastive loss tile by tile: memory O((Bq + Bk) D), exact in value and gradient.

Forward: one pass over the tiles of the logits feeds the running log-sum-exp of the rows and of the columns. Backward:
each tile is computed again and turned into gradients at once. That is four matrix products of 2 Bq Bk D operations, the
least that exact gradients can take without the stored logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from truepair.objectives.logsumexp import DirectionSums, RunningLogSumExp
from truepair.objectives.regulation import Regulation
from truepair.relations.pairs import PairSet

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
    shape = (len(queries), len(keys))
    plan = _Plan(
        _Cells.bucketed(row_fixed, shape, tile),
        _Cells.bucketed(column_fixed, shape, tile),
        regulation,
        symmetric,
        key_gradient,
        tile,
    )
    row_sum, row_mean, column_sum, column_mean = _TiledSums.apply(queries, keys, scale, plan)
    rows = DirectionSums(row_sum, row_mean if regulation else None)
    return rows, DirectionSums(column_sum, column_mean if regulation else None) if symmetric else None


@dataclass(frozen=True)
class _Cells:
    """Cells of the matrix sorted into tiles."""

    rows: Tensor  # [P] row inside the tile
    columns: Tensor  # [P]
    bounds: list[int]  # start of each tile's cells, row-major over tiles
    counts: tuple[Tensor, Tensor]  # cells per row [Bq], per column [Bk]

    @classmethod
    def bucketed(cls, cells: PairSet | None, shape: tuple[int, int], tile: int) -> "_Cells | None":
        """Sort cells into tiles; None where there are none."""
        if cells is None or len(cells) == 0:
            return None
        across = -(-shape[1] // tile)
        down = -(-shape[0] // tile)
        bucket, order = torch.sort((cells.rows // tile) * across + cells.columns // tile)
        bounds = torch.searchsorted(bucket, torch.arange(down * across + 1, device=bucket.device)).tolist()
        counts = (
            torch.bincount(cells.rows, minlength=shape[0]),
            torch.bincount(cells.columns, minlength=shape[1]),
        )
        return cls(cells.rows[order] % tile, cells.columns[order] % tile, bounds, counts)

    def inside(self, tile_number: int) -> tuple[Tensor, Tensor] | None:
        """Rows and columns of one tile's cells, or None."""
        first, last = self.bounds[tile_number], self.bounds[tile_number + 1]
        return (self.rows[first:last], self.columns[first:last]) if last > first else None


@dataclass(frozen=True)
class _Plan:
    """What both passes need to know besides the tensors with a gradient."""

    row_fixed: _Cells | None
    column_fixed: _Cells | None
    regulation: Regulation | None
    symmetric: bool
    key_gradient: bool
    tile: int


@dataclass(frozen=True)
class _Tile:
    """One tile: where it is, its weighted logits z = s + log u, log u, and the cells left out in each direction."""

    rows: slice
    columns: slice
    logits: Tensor  # [R, C]
    log_weights: Tensor | None  # [R, C]
    row_fixed: tuple[Tensor, Tensor] | None
    column_fixed: tuple[Tensor, Tensor] | None


def _tiles(queries: Tensor, keys: Tensor, scale: Tensor, plan: _Plan) -> Iterator[_Tile]:
    """All tiles, row by row; the logits of one are overwritten by the next."""
    size = plan.tile
    buffer = _scratch(queries, keys, plan)
    number = 0
    for top in range(0, len(queries), size):
        rows = slice(top, min(top + size, len(queries)))
        for left in range(0, len(keys), size):
            columns = slice(left, min(left + size, len(keys)))
            height, width = rows.stop - top, columns.stop - left
            logits = torch.mm(queries[rows], keys[columns].T, out=buffer[: height * width].view(height, width))
            log_weights = None
            if plan.regulation is None:
                logits.mul_(scale)
            else:
                log_weights = plan.regulation.log_weights(rows, columns, logits)
                torch.addcmul(log_weights, logits, scale, out=logits)
            row_fixed = plan.row_fixed.inside(number) if plan.row_fixed else None
            column_fixed = plan.column_fixed.inside(number) if plan.column_fixed else None
            yield _Tile(rows, columns, logits, log_weights, row_fixed, column_fixed)
            number += 1


def _scratch(queries: Tensor, keys: Tensor, plan: _Plan) -> Tensor:
    """Room for one tile."""
    return queries.new_empty(min(plan.tile, len(queries)) * min(plan.tile, len(keys)))


class _without:  # noqa: N801 - reads as a clause: with _without(values, cells): ...
    """Within the block, the cells of a tile hold ``nothing``; afterwards they are what they were."""

    def __init__(self, values: Tensor, cells: tuple[Tensor, Tensor] | None, nothing: float = -torch.inf) -> None:
        self.values, self.cells, self.nothing = values, cells, nothing

    def __enter__(self) -> Tensor:
        if self.cells is not None:
            self.kept = self.values[self.cells]
            self.values[self.cells] = self.nothing
        return self.values

    def __exit__(self, *_: object) -> None:
        if self.cells is not None:
            self.values[self.cells] = self.kept


class _Sums:
    """Running sums of one direction: the weighted logits, and the weights themselves when there is a regulation."""

    def __init__(self, length: int, dim: int, like: Tensor) -> None:
        self.dim = dim
        self.logits = RunningLogSumExp(length, dim, like)
        self.weights = like.new_zeros(length)

    def add(self, tile: _Tile, weights: Tensor | None, work: Tensor) -> None:
        """Take in a tile and its weights, without the cells that are fixed in this direction; ``work`` is scratch."""
        where, fixed = (tile.rows, tile.row_fixed) if self.dim == 1 else (tile.columns, tile.column_fixed)
        with _without(tile.logits, fixed) as logits:
            self.logits.add(logits, where, work)
        if weights is not None:
            with _without(weights, fixed, nothing=0.0):
                self.weights[where] += weights.sum(dim=self.dim)

    def log_mean_weight(self, candidates: int, cells: _Cells | None) -> Tensor:
        """Log of the mean weight; 0 for anchors without a free candidate [A]."""
        count = torch.full_like(self.weights, candidates)
        if cells is not None:
            count = count - cells.counts[self.dim == 0]
        return torch.where(count == 0, 0.0, (self.weights / count.clamp(min=1)).log())


class _TiledSums(torch.autograd.Function):
    """Row and column log-sum-exp with their gradients; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        """Log-sums and log-mean-weights of the rows, then of the columns."""
        rows, columns = _Sums(len(queries), 1, queries), _Sums(len(keys), 0, keys)
        scratch = _scratch(queries, keys, plan)
        for tile in _tiles(queries, keys, scale, plan):
            weights = None if tile.log_weights is None else tile.log_weights.exp_()
            work = scratch[: tile.logits.numel()].view(tile.logits.shape)
            rows.add(tile, weights, work)
            if plan.symmetric:
                columns.add(tile, weights, work)
        row_mean = rows.log_mean_weight(len(keys), plan.row_fixed)
        column_mean = columns.log_mean_weight(len(queries), plan.column_fixed)
        row_sum, column_sum = rows.logits.result(), columns.logits.result()
        ctx.save_for_backward(queries, keys, scale, row_sum, column_sum)
        ctx.plan = plan
        ctx.mark_non_differentiable(row_mean, column_mean)
        return row_sum, row_mean, column_sum, column_mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_grad: Tensor, _: Tensor, column_grad: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and scale."""
        queries, keys, scale, row_sum, column_sum = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):
            gradients = _Gradients(queries, keys, scale, ctx.plan, ctx.needs_input_grad)
            gradients.run((row_sum, row_grad), (column_sum, column_grad))
        return *gradients.result(), None


class _Gradients:
    """Gradients of the sums, gathered over the tiles: G_ij = g_i exp(z_ij - lse_i), and the same for the columns."""

    def __init__(self, queries: Tensor, keys: Tensor, scale: Tensor, plan: _Plan, needed: tuple[bool, ...]) -> None:
        self.queries, self.keys, self.scale, self.plan = queries, keys, scale, plan
        self.of_queries = torch.zeros_like(queries)
        # Where keys are anchors whose candidates have no gradient, the scale's gradient has a part that only they see.
        for_scale = needed[2] and plan.symmetric and not plan.key_gradient
        for_keys = needed[1] and (plan.symmetric or plan.key_gradient)
        self.of_keys = torch.zeros_like(keys) if for_keys or for_scale else None
        self.scratch = _scratch(queries, keys, plan)

    def run(self, row: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor]) -> None:
        """Go over the tiles; each direction gives its log-sums and their gradients."""
        # An anchor without candidates has no gradient: exp(-inf - 0) is 0, where exp(-inf + inf) would be NaN.
        row_sum, column_sum = (lse.masked_fill(lse == -torch.inf, 0.0) for lse, _ in (row, column))
        for tile in _tiles(self.queries, self.keys, self.scale, self.plan):
            with _without(tile.logits, tile.row_fixed) as logits:
                work = self.scratch[: logits.numel()].view(logits.shape)
                by_rows = torch.sub(logits, row_sum[tile.rows, None], out=work).exp_().mul_(row[1][tile.rows, None])
            if not self.plan.symmetric:
                self._add(tile, by_rows, by_rows if self.plan.key_gradient else None)
                continue
            with _without(tile.logits, tile.column_fixed) as logits:
                by_columns = logits.sub_(column_sum[tile.columns]).exp_().mul_(column[1][tile.columns])
                if self.plan.key_gradient:
                    by_rows = by_columns = by_columns.add_(by_rows)
                self._add(tile, by_rows, by_columns)

    def _add(self, tile: _Tile, for_queries: Tensor, for_keys: Tensor | None) -> None:
        self.of_queries[tile.rows].addmm_(for_queries, self.keys[tile.columns])
        if self.of_keys is not None and for_keys is not None:
            self.of_keys[tile.columns].addmm_(for_keys.T, self.queries[tile.rows])

    def result(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients of queries, keys and scale. The scale's follows from the others: sum_ij G_ij q_i . k_j."""
        of_scale = (self.of_queries * self.queries).sum()
        if self.of_keys is not None and not self.plan.key_gradient:
            of_scale = of_scale + (self.of_keys * self.keys).sum()
        of_keys = None if self.of_keys is None else self.of_keys.mul_(self.scale)
        return self.of_queries.mul_(self.scale), of_keys, of_scale
