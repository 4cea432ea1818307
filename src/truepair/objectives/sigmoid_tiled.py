"""The sigmoid loss in tiles: exact sum and gradients with O(B D) memory.

What a cell adds to the gradient depends on no other cell, so the forward pass computes the gradients too: each cell is
computed once, with three matrix products (logits, gradients of queries and of keys) where a softmax needs four.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from truepair.devices import sent
from truepair.objectives.labels import CellLabels
from truepair.objectives.srcl import Regulation
from truepair.objectives.tiled import TILE, Cells, FixedCells, without


def tiled_sum(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    bias: Tensor,
    directions: Sequence[CellLabels],
    regulation: Regulation | None,
    *,
    key_gradient: bool,
    tile: int = TILE,
) -> Tensor:
    """Sum of the losses of all cells over the directions, a scalar, without the matrix of logits.

    Args:
        queries: Features [Bq, D].
        keys: Features [Bk, D].
        scale: 1 / temperature, scalar.
        bias: Scalar.
        directions: Labels and weights, one or two.
        regulation: Weights of the cells that have none of their own; None: all 1.
        key_gradient: Whether an anchor's candidates get a gradient.
        tile: Rows and columns of a tile.

    Returns:
        The sum, equal to that of the dense form.
    """
    task = _Task(tile, [_Direction.of(labels, tile) for labels in directions], regulation, key_gradient)
    total: Tensor = _TiledSum.apply(queries, keys, scale, bias, task, torch.is_grad_enabled())
    return total


@dataclass
class _Direction:
    """A direction's labels and weights, sorted into tiles.

    Attributes:
        labels: As they came.
        cells: The cells of given weight, by tile; None where there are none.
        fixed_weights: Their weights, in the order of ``cells`` [P].
        fixed_labels: Their labels [P].
        per_anchor: What the regulation's weights are multiplied by, to have mean 1 over an anchor's others, as a column
            for queries and as a row for keys [Bq, 1] or [1, Bk].
    """

    labels: CellLabels
    cells: FixedCells | None
    fixed_weights: Tensor  # [P]
    fixed_labels: Tensor  # [P]
    per_anchor: Tensor | None = None

    @classmethod
    def of(cls, labels: CellLabels, tile: int) -> "_Direction":
        """Sort the cells."""
        device, once = labels.labels.device, labels.fixed.first_of_each()  # of each cell
        fixed, of_cells = labels.fixed.where(once), labels.labels[sent(once, device)]
        cells, weights = FixedCells.of(fixed, tile, device), sent(fixed.values, device)
        if cells is None:
            return cls(labels, None, weights, of_cells)
        return cls(labels, cells, weights[cells.order], of_cells[cells.order])

    def inside(self, number: int) -> tuple[Cells | None, Tensor, Tensor]:
        """The given cells of a tile, or None; their weights and labels [p]."""
        if self.cells is None:
            return None, self.fixed_weights, self.fixed_labels
        part = slice(self.cells.bounds[number], self.cells.bounds[number + 1])
        return self.cells.inside(number), self.fixed_weights[part], self.fixed_labels[part]


@dataclass(frozen=True)
class _Task:
    """What the pass over the tiles needs to know besides the tensors with a gradient."""

    tile: int
    directions: list[_Direction]
    regulation: Regulation | None
    key_gradient: bool


@dataclass(frozen=True)
class _Tile:
    """One tile; its tensors are overwritten by the next.

    Attributes:
        number: Among the tiles, row by row.
        rows: Its rows in the matrix.
        columns: Its columns.
        products: q . k [R, C].
        rooms: Tensors to work in, one more than there are directions [R, C] each.
        weights: The regulation's, before they are normalised [R, C].
    """

    number: int
    rows: slice
    columns: slice
    products: Tensor
    rooms: list[Tensor]
    weights: Tensor | None


class _TiledSum(torch.autograd.Function):
    """The sum with its gradients; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, task: _Task, trained: bool
    ) -> Tensor:
        """The sum; what it pulls at the inputs is kept for the backward pass."""
        needed = [trained and need for need in ctx.needs_input_grad[:4]]
        one_pass = _Pass(queries, keys, scale, bias, task, needed)
        one_pass.run()
        ctx.save_for_backward(*one_pass.gradients())
        return one_pass.total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, scale and bias."""
        return *(None if pull is None else pull * grad for pull in ctx.saved_tensors), None, None


class _Pass:
    """Goes over the tiles once and adds up: the loss, and its gradients as far as they are needed."""

    def __init__(
        self, queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, task: _Task, needed: Sequence[bool]
    ) -> None:
        self.queries, self.keys, self.scale, self.bias, self.task, self.needed = (
            queries,
            keys,
            scale,
            bias,
            task,
            needed,
        )
        self.total = queries.new_zeros(())
        # The gradient of the scale follows from those of the features: sum_ij G_ij q_i . k_j.
        keys_are_anchors = any(direction.labels.along == 0 for direction in task.directions)
        for_scale = needed[2] and keys_are_anchors and not task.key_gradient
        for_keys = needed[1] and (keys_are_anchors or task.key_gradient)
        self.of_queries = torch.zeros_like(queries) if needed[0] or needed[2] else None
        self.of_keys = torch.zeros_like(keys) if for_keys or for_scale else None
        self.of_bias = queries.new_zeros(())

    def run(self) -> None:
        """All tiles; before them the regulation's weights alone, to know their means."""
        if self.task.regulation is not None:
            self._normalise()
        for tile in self._tiles():
            logits = torch.addcmul(self.bias, tile.products, self.scale, out=tile.products)
            losses = softplus(logits, *tile.rooms[:2])  # of negatives
            for direction in self.task.directions:
                self.total += self._weighed(direction, tile, losses, logits, out=tile.rooms[1]).sum()
            if not any(self.needed):
                continue
            chances = logits.sigmoid_()
            one = logits.new_ones(())
            pulls = [
                self._weighed(direction, tile, chances, one, out=room)
                for direction, room in zip(self.task.directions, tile.rooms[1:], strict=True)
            ]
            self._add(tile, pulls)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of queries, keys, scale and bias; None where none is needed."""
        of_scale = None
        if self.needed[2] and self.of_queries is not None:
            of_scale = (self.of_queries * self.queries).sum()
            if not self.task.key_gradient and self.of_keys is not None:
                of_scale = of_scale + (self.of_keys * self.keys).sum()
        of_queries = self.of_queries.mul_(self.scale) if self.needed[0] and self.of_queries is not None else None
        of_keys = self.of_keys.mul_(self.scale) if self.needed[1] and self.of_keys is not None else None
        return of_queries, of_keys, of_scale, self.of_bias if self.needed[3] else None

    def _weighed(self, direction: _Direction, tile: _Tile, negative: Tensor, slope: Tensor, out: Tensor) -> Tensor:
        """What a direction makes of a tile: w * (negative - t * slope) in each cell [R, C].

        The loss of a cell is softplus(z) - t * z, its derivative by the logit sigmoid(z) - t.

        Args:
            direction: Gives t and w.
            tile: Where.
            negative: What a cell of label 0 has [R, C].
            slope: How it falls with the label [R, C], or one number for all.
            out: Overwritten [R, C].
        """
        rows, columns, soft = tile.rows, tile.columns, direction.labels.soft
        cells, weights, labels = direction.inside(tile.number)
        if soft is not None:
            torch.addcmul(negative, soft[rows, columns], slope, value=-1, out=out)
        else:
            torch.sub(negative, slope, alpha=direction.labels.rest, out=out)
        if tile.weights is not None and direction.per_anchor is not None:
            out.mul_(tile.weights)
            out.mul_(direction.per_anchor[rows] if direction.labels.along == 1 else direction.per_anchor[:, columns])
        if cells is not None:
            out[cells] = weights * (negative[cells] - labels * (slope[cells] if slope.dim() else slope))
        return out

    def _add(self, tile: _Tile, pulls: list[Tensor]) -> None:
        """Add what a tile pulls at the inputs: derivatives by its logits, one of each direction [R, C]."""
        if self.task.key_gradient and len(pulls) == 2:
            pulls = [pulls[0].add_(pulls[1])]
        if self.needed[3]:
            self.of_bias += sum(pull.sum() for pull in pulls)
        if self.of_queries is not None:
            self.of_queries[tile.rows].addmm_(pulls[0], self.keys[tile.columns])
        if self.of_keys is not None:
            self.of_keys[tile.columns].addmm_(pulls[-1].T, self.queries[tile.rows])

    def _normalise(self) -> None:
        """Give each direction what brings the mean weight of an anchor's others to 1."""
        totals = [self.queries.new_zeros(self._anchors(direction)) for direction in self.task.directions]
        for tile in self._tiles():
            assert tile.weights is not None, "there is a regulation"
            for direction, total in zip(self.task.directions, totals, strict=True):
                cells, along = direction.inside(tile.number)[0], direction.labels.along
                with without(tile.weights, cells, 0.0) as weights:
                    total[tile.rows if along == 1 else tile.columns] += weights.sum(dim=along)
        for direction, total in zip(self.task.directions, totals, strict=True):
            along, fixed = direction.labels.along, direction.cells
            count = torch.full_like(total, direction.labels.fixed.shape[along])
            if fixed is not None:
                count = count - (fixed.per_row if along == 1 else fixed.per_column)
            direction.per_anchor = (count / total.where(count > 0, 1.0)).unsqueeze(along)

    def _tiles(self) -> Iterator[_Tile]:
        """All tiles, row by row."""
        size, queries, keys, regulation = self.task.tile, self.queries, self.keys, self.task.regulation
        largest = min(size, len(queries)) * min(size, len(keys))
        rooms = 2 + len(self.task.directions) + (regulation is not None)
        buffers = [queries.new_empty(largest) for _ in range(rooms)]
        number = 0
        for top in range(0, len(queries), size):
            rows = slice(top, min(top + size, len(queries)))
            for left in range(0, len(keys), size):
                columns = slice(left, min(left + size, len(keys)))
                shape = (rows.stop - top, columns.stop - left)
                products, *rest = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
                torch.mm(queries[rows], keys[columns].T, out=products)
                weights = None
                if regulation is not None:
                    weights = regulation.log_weights(rows, columns, products, (rest.pop(), rest[0])).exp_()
                yield _Tile(number, rows, columns, products, rest, weights)
                number += 1

    @staticmethod
    def _anchors(direction: _Direction) -> int:
        return direction.labels.fixed.shape[1 - direction.labels.along]


def softplus(logits: Tensor, out: Tensor, work: Tensor) -> Tensor:
    """``log(1 + exp(z))``, exact to the last digits for every z, written to ``out`` [R, C].

    On a CPU torch's own ``log1p`` takes twice as long as the product that made the logits, and its ``log`` a fifth of
    that. So the rounding of u = 1 + e is made good by hand: log(1 + e) = log u + (e - (u - 1)) / u.
    """
    if logits.device.type != "cpu":
        return torch.logaddexp(logits, logits.new_zeros(()), out=out)
    torch.abs(logits, out=out).neg_().exp_()  # e
    torch.add(out, 1.0, out=work)
    out.sub_(work.sub_(1.0))
    out.div_(work.add_(1.0)).add_(work.log_())
    return out.add_(torch.clamp(logits, min=0.0, out=work))
