"""The numerator of the contrastive loss: ``sum_j y_ij s_ij``, without the matrix of targets."""

import torch
from torch import Tensor

from truepair.objectives.direction import Direction
from truepair.relations.pairs import PairSet

_DENSE = 32  # a logit out of a matrix product costs so much less than one out of gathered rows, backward pass included


def pair_scores(anchors: Tensor, candidates: Tensor, scale: Tensor, pairs: PairSet) -> Tensor:
    """Logits of single cells [P]; anchors [A, D], candidates [C, D]. Memory O(P D) at most, never O(A C) for few."""
    # index_select: the gradient of plain indexing is three times slower.
    if len(anchors) * len(candidates) <= _DENSE * len(pairs):
        return (anchors @ candidates.T).flatten().index_select(0, pairs.linear) * scale
    return (anchors.index_select(0, pairs.rows) * candidates.index_select(0, pairs.columns)).sum(dim=1) * scale


def target_score(
    anchors: Tensor, candidates: Tensor, scale: Tensor, direction: Direction, positives: PairSet
) -> tuple[Tensor, Tensor]:
    """Score of each anchor's target row under y = (1 - smoothing) * positives + smoothing * uniform.

    The uniform part has a closed form, the anchor's score with the sum of the candidates: no dense row is built.

    Args:
        anchors: Features [A, D].
        candidates: Features [C, D].
        scale: 1 / temperature, scalar.
        direction: Smoothing, soft targets and weights.
        positives: The direction's positives, resolved [A, C].

    Returns:
        Scores [A], and which anchors have a target, bool [A].
    """
    left_out = _left_out(direction.weights, positives)
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
    removed = pair_scores(anchors, candidates, scale, left_out)
    count = len(candidates) - torch.bincount(left_out.rows, minlength=len(anchors))
    return total.index_add(0, left_out.rows, removed, alpha=-1) / count.clamp(min=1)


def _left_out(weights: PairSet | None, positives: PairSet) -> PairSet | None:
    """Candidates of weight 0 that are not positives."""
    if weights is None:
        return None
    return weights.where((weights.values == 0) & ~positives.contains(weights))


def _without(soft: Tensor, left_out: PairSet | None) -> Tensor:
    """Target rows without the candidates that are left out, summing to 1 again [A, C]."""
    if left_out is None:
        return soft
    kept = soft.masked_fill(left_out.mask(), 0.0)
    return kept / kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
