"""Sums over the candidates of a direction: in dense form, and as running log-sum-exps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.objectives.srcl import Regulation
from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class DirectionSums:
    """What one pass over the logits leaves behind for one direction.

    Attributes:
        log_sum: ``log sum_k u_k exp(s_k)`` over the free candidates of each anchor; -inf where there is none [A].
        log_mean_weight: ``log mean_k u_k`` over the same candidates, without gradient [A]. None: all u are 1.
    """

    log_sum: Tensor  # [A]
    log_mean_weight: Tensor | None = None  # [A]

    def normalised(self) -> Tensor:
        """Log-sum-exp with weights of mean 1 [A]."""
        return self.log_sum if self.log_mean_weight is None else self.log_sum - self.log_mean_weight


def safe_logsumexp(values: Tensor, dim: int) -> Tensor:
    """Log-sum-exp along a dimension [..., D, ...] -> [..., ...]: -inf, with gradient 0, where every value is -inf."""
    largest = values.detach().amax(dim=dim, keepdim=True).clamp(min=torch.finfo(values.dtype).min)
    total = (values - largest).exp().sum(dim=dim)
    empty = total == 0
    return torch.where(empty, -torch.inf, largest.squeeze(dim) + (total + empty).log())


def row_logsumexp(scores: Tensor, pairs: PairSet) -> Tensor:
    """Log-sum-exp of scores [P] over the cells of each row of a pair set; -inf for rows without a cell [R]."""
    lowest = torch.finfo(scores.dtype).min
    largest = torch.full((pairs.shape[0],), lowest, dtype=scores.dtype, device=scores.device)
    largest = largest.scatter_reduce(0, pairs.rows, scores.detach(), "amax").clamp(min=lowest)
    total = torch.zeros_like(largest).index_add(0, pairs.rows, (scores - largest[pairs.rows]).exp())
    empty = total == 0
    return torch.where(empty, -torch.inf, largest + (total + empty).log())


class RunningLogSumExp:
    """Log-sum-exp along one dimension of a matrix that arrives in tiles."""

    def __init__(self, length: int, dim: int, like: Tensor) -> None:
        """Start empty.

        Args:
            length: How many results there will be.
            dim: The dimension of the tiles that is summed over.
            like: Tensor whose dtype and device the results have.
        """
        self.dim = dim
        self.largest = like.new_full((length,), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(length)

    def add(self, tile: Tensor, where: slice, work: Tensor) -> None:
        """Take in a tile [R, C]; ``where`` says which results it belongs to, ``work`` is overwritten [R, C]."""
        largest = torch.maximum(self.largest[where], tile.amax(dim=self.dim))
        self.total[where].mul_((self.largest[where] - largest).exp_())
        self.total[where].add_(torch.sub(tile, largest.unsqueeze(self.dim), out=work).exp_().sum(dim=self.dim))
        self.largest[where] = largest

    def result(self) -> Tensor:
        """The log-sum-exp; -inf where nothing, or nothing but -inf, was added [length]."""
        empty = self.total == 0
        return torch.where(empty, -torch.inf, self.largest + (self.total + empty).log())


class RunningSum:
    """The same of a matrix whose exponentials arrive, not the logits; they must not overflow or vanish."""

    def __init__(self, length: int, dim: int, like: Tensor) -> None:
        """Start empty; arguments as of :class:`RunningLogSumExp`."""
        self.dim = dim
        self.total = like.new_zeros(length)

    def add(self, tile: Tensor, where: slice, work: Tensor) -> None:
        """Take in a tile of exponentials [R, C]; ``where`` says which results it belongs to."""
        self.total[where] += tile.sum(dim=self.dim)

    def result(self) -> Tensor:
        """The log-sum-exp; -inf where nothing, or nothing but 0, was added [length]."""
        return self.total.log()


def dense_sums(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    row_fixed: PairSet | None,
    column_fixed: PairSet | None,
    regulation: Regulation | None,
    *,
    symmetric: bool,
    key_gradient: bool,
) -> tuple[DirectionSums, DirectionSums | None]:
    """Log-sum-exp of the free candidates per query and, if ``symmetric``, per key. Memory O(Bq Bk).

    Args:
        queries: Features [Bq, D].
        keys: Features [Bk, D].
        scale: 1 / temperature, scalar.
        row_fixed: Cells left out of the row sums, because their weight is fixed and added later [Bq, Bk].
        column_fixed: Cells left out of the column sums [Bq, Bk].
        regulation: Weights u of the free candidates; None: all 1.
        symmetric: Whether the keys are anchors too.
        key_gradient: Whether an anchor's candidates get a gradient.

    Returns:
        Sums of the rows and of the columns.
    """
    log_weights = None
    if regulation is not None:
        everything = slice(None)
        log_weights = regulation.log_weights(everything, everything, queries.detach() @ keys.detach().T)
    similarities = queries @ (keys if key_gradient else keys.detach()).T  # [Bq, Bk]
    rows = _sums(similarities * scale, log_weights, row_fixed)
    if not symmetric:
        return rows, None
    if not key_gradient:
        similarities = queries.detach() @ keys.T
    transposed_weights = None if log_weights is None else log_weights.T
    return rows, _sums(similarities.T * scale, transposed_weights, None if column_fixed is None else column_fixed.T)


def _sums(logits: Tensor, log_weights: Tensor | None, fixed: PairSet | None) -> DirectionSums:
    """Row sums of one direction; logits [A, C]."""
    free = None if fixed is None else ~fixed.to(logits.device).mask()
    if log_weights is None:
        return DirectionSums(safe_logsumexp(_only(logits, free), dim=1))
    count = torch.full(logits.shape[:1], logits.shape[1], device=logits.device) if free is None else free.sum(dim=1)
    log_total = safe_logsumexp(_only(log_weights, free), dim=1)
    return DirectionSums(safe_logsumexp(_only(logits + log_weights, free), dim=1), log_mean(log_total, count))


def log_mean(log_total: Tensor, count: Tensor) -> Tensor:
    """Log of the mean weight, 0 where there is nothing to average [A]."""
    return torch.where(count == 0, 0.0, log_total - count.clamp(min=1).to(log_total.dtype).log())


def _only(values: Tensor, free: Tensor | None) -> Tensor:
    return values if free is None else values.masked_fill(~free, -math.inf)
