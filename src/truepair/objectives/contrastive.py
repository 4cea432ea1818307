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

from truepair.devices import sent, uncompiled
from truepair.objectives.srcl import Regulation
from truepair.objectives.sums import DirectionSums, dense_sums, row_logsumexp, safe_logsumexp
from truepair.objectives.tiled import tiled_sums
from truepair.relations.batch import BatchRelations
from truepair.relations.pairs import PairSet, Side


@dataclass(frozen=True)
class Direction:
    """Targets y and candidate weights w of one direction (rows are anchors, columns are candidates).

    The target row of anchor i is ``(1 - smoothing) * positives_i + smoothing * uniform``. The positives are normalised
    to sum to 1; the uniform part spreads over the candidates that take part (weight above 0). A positive always has
    weight 1. A row without a positive has no target: its loss is 0 and it does not count in the mean.
    The sigmoid loss takes the same for labels of single cells, see :mod:`truepair.objectives.sigmoid`.

    Attributes:
        positives: Positive pairs with their shares before normalisation [A, C]. None: each anchor's own pair.
        smoothing: Share of the uniform part, 0 to 1. S-ITC (MAFA): 0.5.
        soft: Dense target rows instead of the positives, each summing to 1 [A, C]: momentum distillation, consistency.
        weights: Weights >= 0 of single candidates in the denominator; 0 leaves a candidate out; all others have
            weight 1, or what the regulation gives them. Each cell at most once.
        offset: Column of anchor 0's own pair, when the candidates were gathered over ranks.
    """

    positives: PairSet | None = None
    smoothing: float = 0.0
    soft: Tensor | None = None  # [A, C]
    weights: PairSet | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing is {self.smoothing}; use a number from 0 to 1.")

    @classmethod
    def of_relations(cls, relations: BatchRelations, side: Side, smoothing: float = 0.0) -> "Direction":
        """Targets and weights that the relations of a batch ask for in one direction; decided outside of any graph."""
        return uncompiled(cls._of_relations)(relations, side, smoothing)

    @classmethod
    def _of_relations(cls, relations: BatchRelations, side: Side, smoothing: float) -> "Direction":
        weights = relations.weights(side)
        # Without any, all candidates weigh 1 as positives do, and no cell need be left out of the sums and added again.
        return cls(positives=relations.positives(side), smoothing=smoothing, weights=weights if len(weights) else None)

    def of_rows(self, start: int, stop: int) -> "Direction":
        """The direction of some anchors only; given targets and weights, or own pairs at their place."""
        return Direction(
            positives=None if self.positives is None else self.positives.of_rows(start, stop),
            smoothing=self.smoothing,
            soft=None if self.soft is None else self.soft[start:stop],
            weights=None if self.weights is None else self.weights.of_rows(start, stop),
            offset=self.offset + start,
        )

    def transposed(self) -> "Direction":
        """The other direction under symmetric relations: the same cells, read from the other side.

        Raises:
            ValueError: If there are soft targets (their columns do not sum to 1) or an offset.
        """
        if self.soft is not None or self.offset:
            raise ValueError("Soft targets and offsets cannot be transposed; give the other direction explicitly.")
        positives = None if self.positives is None else self.positives.T
        weights = None if self.weights is None else self.weights.T
        return Direction(positives, self.smoothing, None, weights)

    def resolved_positives(self, shape: tuple[int, int], device: torch.device) -> PairSet:
        """The positives, or each anchor's own pair; checked against the shape of the logits.

        Args:
            shape: Anchors and candidates, (A, C).
            device: Where own pairs are made, unless there are weights: sets that are combined are in one place.

        Raises:
            ValueError: If a set belongs to a matrix of another shape.
        """
        for pairs in (self.positives, self.weights):
            if pairs is not None and pairs.shape != shape:
                raise ValueError(f"The pairs are of a {pairs.shape} matrix, the logits of {shape}.")
        if self.positives is not None:
            return self.positives
        return PairSet.diagonal(*shape, self.offset, device=device if self.weights is None else self.weights.device)


_DENSE = 32  # a logit out of a matrix product costs so much less than one out of gathered rows, backward pass included


def pair_scores(anchors: Tensor, candidates: Tensor, scale: Tensor, pairs: PairSet) -> Tensor:
    """Logits of single cells [P]; anchors [A, D], candidates [C, D]. Memory O(P D) at most, never O(A C) for few."""
    # index_select: the gradient of plain indexing is three times slower.
    if len(anchors) * len(candidates) <= _DENSE * len(pairs):
        return (anchors @ candidates.T).flatten().index_select(0, pairs.linear) * scale
    return (anchors.index_select(0, pairs.rows) * candidates.index_select(0, pairs.columns)).sum(dim=1) * scale


def target_score(
    anchors: Tensor,
    candidates: Tensor,
    scale: Tensor,
    direction: Direction,
    positives: PairSet,
    left_out: PairSet | None,
) -> tuple[Tensor, Tensor]:
    """Score of each anchor's target row under y = (1 - smoothing) * positives + smoothing * uniform.

    The uniform part has a closed form, the anchor's score with the sum of the candidates: no dense row is built.

    Args:
        anchors: Features [A, D].
        candidates: Features [C, D].
        scale: 1 / temperature, scalar.
        direction: Smoothing and soft targets.
        positives: The direction's positives, resolved, on the device [A, C].
        left_out: Cells, on the device, with 1 where a candidate does not take part; None: all do [A, C].

    Returns:
        Scores [A], and which anchors have a target, bool [A].
    """
    if direction.soft is not None:
        soft = _without(direction.soft.to(anchors.dtype), left_out)
        score = (anchors * (soft @ candidates)).sum(dim=1) * scale
        has_target = soft.sum(dim=1) > 0
    else:
        score, has_target = _positive_score(anchors, candidates, scale, positives)
    if direction.smoothing > 0:
        uniform = _uniform_score(anchors, candidates, scale, left_out)
        score = (1.0 - direction.smoothing) * score + direction.smoothing * uniform
    return score, has_target


def _positive_score(anchors: Tensor, candidates: Tensor, scale: Tensor, positives: PairSet) -> tuple[Tensor, Tensor]:
    """Mean score of the positives of each anchor, in their shares, and which anchors have any [A], [A]."""
    shares = positives.normalised().values.to(anchors.dtype)
    scores = pair_scores(anchors, candidates, scale, positives) * shares
    total = torch.zeros(positives.shape[0], dtype=scores.dtype, device=scores.device)
    return total.index_add(0, positives.rows, scores), positives.row_sums() > 0


def _uniform_score(anchors: Tensor, candidates: Tensor, scale: Tensor, left_out: PairSet | None) -> Tensor:
    """Mean score over the candidates that take part [A]."""
    total = anchors @ candidates.sum(dim=0) * scale
    if left_out is None:
        return total / len(candidates)
    one = left_out.values.to(total.dtype)  # [P]
    removed = pair_scores(anchors, candidates, scale, left_out) * one
    count = len(candidates) - torch.zeros_like(total).index_add(0, left_out.rows, one)
    return total.index_add(0, left_out.rows, removed, alpha=-1) / count.clamp(min=1)


def _left_out(direction: Direction, positives: PairSet) -> PairSet | None:
    """The cells of the weights, with 1 where a candidate has weight 0 and is no positive; None where nobody asks."""
    weights = direction.weights
    if weights is None or (direction.soft is None and direction.smoothing == 0):
        return None
    return weights.with_values(((weights.values == 0) & ~positives.contains(weights)).to(weights.values.dtype))


def _without(soft: Tensor, left_out: PairSet | None) -> Tensor:
    """Target rows without the candidates that are left out, summing to 1 again [A, C]."""
    if left_out is None:
        return soft
    kept = soft.masked_fill(left_out.dense() > 0, 0.0)
    return kept / kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)


def loss_at_chance(direction: Direction, shape: tuple[int, int], device: torch.device) -> Tensor:
    """The softmax loss of one direction where all pairs have one score: mean log of the effective candidates, a scalar.

    A regulation changes nothing: its weights are 1 in the mean of the candidates that it weighs. There are no soft
    targets, which would say who has a target.

    Args:
        direction: Positives and weights of single cells.
        shape: Anchors and candidates, (A, C).
        device: Where the result is.
    """
    positives = direction.resolved_positives(shape, device)
    candidates = torch.full((shape[0],), float(shape[1]), device=positives.device)  # [A]
    if direction.weights is not None:
        weights = direction.weights
        missing = (weights.values.to(candidates.dtype) - 1).masked_fill(positives.contains(weights), 0.0)  # [P]
        candidates = candidates.index_add(0, weights.rows, missing)
    has_target = positives.row_sums() > 0
    mean = torch.where(has_target, candidates.log(), 0.0).sum() / has_target.sum().clamp(min=1)
    return sent(mean, device)


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
        """Mean over the anchors that have a target, a scalar; 0 when none has."""
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
    check_features(queries, keys, rows, symmetric)
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
        positives = direction.resolved_positives(shape, anchors.device)
        self.fixed = self._fixed(positives, regulated)
        left_out = _left_out(direction, positives)
        self.left_out = None if left_out is None else left_out.to(anchors.device)
        self.positives = positives.to(anchors.device)

    def _fixed(self, positives: PairSet, regulated: bool) -> PairSet | None:
        """Cells whose weight is given: 1 on positives, then the direction's weights. None: all candidates weigh 1.

        A cell that an earlier one repeats stays, and weighs nothing more: so their number is no matter of the data, and
        ``torch.compile`` takes the loss whole.
        """
        weights = self.direction.weights
        if weights is None and not regulated:
            return None
        ones = positives.with_values(torch.ones_like(positives.values))
        cells = ones if weights is None else PairSet.joined(ones, weights)
        again = cells.firsts() != torch.arange(len(cells), device=cells.device)  # [P]
        return cells.with_values(cells.values.masked_fill(again, 0.0))

    def losses(self, sums: DirectionSums, scale: Tensor) -> DirectionLosses:
        """Put numerator and denominator together."""
        log_denominator = sums.normalised()
        if self.fixed is not None:
            given = self.fixed.to(self.anchors.device)
            scores = pair_scores(self.anchors, self.candidates, scale, given)
            fixed = row_logsumexp(scores + given.values.to(scores.dtype).log(), given)
            log_denominator = safe_logsumexp(torch.stack([fixed, log_denominator]), dim=0)
        score, has_target = target_score(
            self.anchors, self.candidates, scale, self.direction, self.positives, self.left_out
        )
        losses = torch.where(has_target, log_denominator - score, 0.0)
        return DirectionLosses(losses, has_target, log_denominator)


_SUMS: Mapping[str, Callable[..., tuple[DirectionSums, DirectionSums | None]]] = {
    "dense": dense_sums,
    "tiled": tiled_sums,
}


def _chosen(implementation: Implementation, logits: int) -> Callable[..., tuple[DirectionSums, DirectionSums | None]]:
    if implementation == "auto":
        implementation = "dense" if logits <= DENSE_LIMIT else "tiled"
    if implementation not in _SUMS:
        raise ValueError(f"implementation is {implementation!r}; use 'auto', 'dense' or 'tiled'.")
    return _SUMS[implementation] if implementation == "dense" else uncompiled(_SUMS[implementation])


def check_features(queries: Tensor, keys: Tensor, rows: Direction | None, symmetric: bool) -> None:
    """Check the shapes of features [Bq, D] and [Bk, D].

    Raises:
        ValueError: They do not fit together, or own pairs are asked for where nobody can know them.
    """
    if queries.dim() != 2 or keys.dim() != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} must be [B, D] with one D.")
    if symmetric and rows is None and len(queries) != len(keys):
        raise ValueError(
            "Different numbers of queries and keys: pass symmetric=False, or the positives of both directions."
        )
