"""The contrastive loss of the whole line: InfoNCE, S-ITC, many positives, masked or regulated negatives, soft targets.

For queries q_i, keys k_j and logits s_ij = q_i . k_j / temperature::

    loss_i = - sum_j y_ij * ( s_ij - log sum_k w_ik exp(s_ik) )

y is a row distribution (who is a match), w weighs the candidates of the denominator (who is a negative, and how much).
InfoNCE is y = identity and w = 1; what the methods differ in is who fills y and w.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from truepair.objectives.dense import dense_sums
from truepair.objectives.direction import Direction
from truepair.objectives.logsumexp import DirectionSums, row_logsumexp, safe_logsumexp
from truepair.objectives.regulation import Regulation
from truepair.objectives.targets import pair_scores, target_score
from truepair.objectives.tiled import tiled_sums
from truepair.relations.pairs import PairSet

Implementation = Literal["auto", "dense", "tiled"]

DENSE_LIMIT = 1 << 22
"""Number of logits up to which "auto" takes the dense form: those of one tile."""


@dataclass(frozen=True)
class DirectionLosses:
    """Losses of one direction.

    Attributes:
        losses: Loss of each anchor in nats, 0 where it has no target [A].
        counted: Which anchors have a target, bool [A].
        log_denominators: ``log sum_k w_ik exp(s_ik)`` of each anchor [A].
    """

    losses: Tensor  # [A]
    counted: Tensor  # [A]
    log_denominators: Tensor  # [A]

    def mean(self) -> Tensor:
        """Mean over the anchors that have a target; 0 when none has."""
        return self.losses.sum() / self.counted.sum().clamp(min=1)


@dataclass(frozen=True)
class ContrastiveOutput:
    """The loss and its parts.

    Attributes:
        loss: Mean of the directions' means, a scalar in nats. (SRCL writes the sum of the directions: twice this.)
        rows: Queries over keys (image-to-text when the queries are images).
        columns: Keys over queries; None when only one direction was asked for.
    """

    loss: Tensor
    rows: DirectionLosses
    columns: DirectionLosses | None


def contrastive_loss(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor | float,
    *,
    rows: Direction | None = None,
    columns: Direction | None = None,
    regulation: Regulation | None = None,
    symmetric: bool = True,
    key_gradient: bool = True,
    implementation: Implementation = "auto",
) -> ContrastiveOutput:
    """Contrastive loss of queries against keys.

    Half-precision features are computed in float32, also under autocast.

    Args:
        queries: Features, L2-normalised as a rule (images, as a rule) [Bq, D].
        keys: Features of the candidates (texts) [Bk, D]. They may be more than the queries: gathered over ranks, or
            with a queue behind them.
        temperature: Positive scalar; as a tensor it gets a gradient.
        rows: Targets and weights of the queries; each query's own pair when absent.
        columns: Targets and weights of the keys, as [Bk, Bq]; ``rows`` transposed when absent.
        regulation: Similarity weights of all candidates that are not positives and have no weight of their own (SRCL).
        symmetric: Whether the keys are anchors too. Off for candidates that are not anchors here (queue, other ranks).
        key_gradient: Whether an anchor's candidates get a gradient too. GRIT-VLP, MAFA, ALBEF's momentum features: no.
        implementation: "dense" holds the B x B logits; "tiled" needs O(B D) memory; "auto" decides by size.

    Returns:
        Loss, and the losses of every anchor.

    Raises:
        ValueError: If shapes do not fit together.
    """
    _check(queries, keys, rows, symmetric)
    rows = rows or Direction()
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
        queries, keys = queries.to(dtype), keys.to(dtype)
        scale = torch.as_tensor(temperature, dtype=dtype, device=queries.device).reciprocal()
        sides = [_Side(queries, keys if key_gradient else keys.detach(), rows, regulation is not None)]
        if symmetric:
            columns = columns or rows.transposed()
            sides.append(_Side(keys, queries if key_gradient else queries.detach(), columns, regulation is not None))
        sums = _chosen(implementation, len(queries) * len(keys))(
            queries,
            keys,
            scale,
            sides[0].fixed,
            sides[1].fixed.T if symmetric and sides[1].fixed is not None else None,
            regulation,
            symmetric=symmetric,
            key_gradient=key_gradient,
        )
        losses = [side.losses(total, scale) for side, total in zip(sides, sums, strict=False) if total is not None]
    mean = torch.stack([direction.mean() for direction in losses]).mean()
    return ContrastiveOutput(mean, losses[0], losses[1] if symmetric else None)


class _Side:
    """One direction of one call: anchors and candidates as they take part in the gradient."""

    def __init__(self, anchors: Tensor, candidates: Tensor, direction: Direction, regulated: bool) -> None:
        self.anchors, self.candidates, self.direction = anchors, candidates, direction
        shape = (len(anchors), len(candidates))
        self.positives = direction.resolved_positives(shape, anchors.device)
        self.fixed = self._fixed(regulated)

    def _fixed(self, regulated: bool) -> PairSet | None:
        """Cells whose weight is given: 1 on positives, then the direction's weights. None: all candidates weigh 1."""
        ones = self.positives.with_values(torch.ones_like(self.positives.values))
        if self.direction.weights is not None:
            return PairSet.union(ones, self.direction.weights)
        return ones.distinct() if regulated else None

    def losses(self, sums: DirectionSums, scale: Tensor) -> DirectionLosses:
        """Put numerator and denominator together."""
        log_denominator = sums.normalised()
        if self.fixed is not None:
            scores = pair_scores(self.anchors, self.candidates, scale, self.fixed)
            fixed = row_logsumexp(scores + self.fixed.values.to(scores.dtype).log(), self.fixed)
            log_denominator = safe_logsumexp(torch.stack([fixed, log_denominator]), dim=0)
        score, has_target = target_score(self.anchors, self.candidates, scale, self.direction, self.positives)
        losses = torch.where(has_target, log_denominator - score, 0.0)
        return DirectionLosses(losses, has_target, log_denominator)


_SUMS: Mapping[str, Callable[..., tuple[DirectionSums, DirectionSums | None]]] = {
    "dense": dense_sums,
    "tiled": tiled_sums,
}


def _chosen(implementation: Implementation, logits: int) -> Callable[..., tuple[DirectionSums, DirectionSums | None]]:
    if implementation == "auto":
        return dense_sums if logits <= DENSE_LIMIT else tiled_sums
    if implementation not in _SUMS:
        raise ValueError(f"implementation is {implementation!r}; use 'auto', 'dense' or 'tiled'.")
    return _SUMS[implementation]


def _check(queries: Tensor, keys: Tensor, rows: Direction | None, symmetric: bool) -> None:
    if queries.dim() != 2 or keys.dim() != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} must be [B, D] with one D.")
    if symmetric and rows is None and len(queries) != len(keys):
        raise ValueError(
            "Different numbers of queries and keys: pass symmetric=False, or the positives of both directions."
        )
