"""The denominators of the contrastive loss with the whole matrix of logits: simple, and fastest for small batches."""

import math

import torch
from torch import Tensor

from truepair.objectives.logsumexp import DirectionSums, safe_logsumexp
from truepair.objectives.regulation import Regulation
from truepair.relations.pairs import PairSet


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
    free = None if fixed is None else ~fixed.mask()
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
