"""What the sigmoid loss knows of each cell, its label and its weight; and the sum over all cells in dense form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.devices import sent
from truepair.objectives.contrastive import Direction
from truepair.objectives.srcl import Regulation, normalised_weights
from truepair.relations.pairs import PairSet

_ROUNDING = 1e-5  # of labels that were mixed


@dataclass(frozen=True)
class CellLabels:
    """Labels and weights of all cells as one direction has them; cells are queries x keys in both directions.

    Attributes:
        along: Dimension of an anchor's candidates: 1 where the queries are the anchors, 0 where the keys are.
        fixed: Cells whose weight is given; all others have weight 1, or the regulation's. A cell that is there twice
            has one weight and one label. They are where the direction's sets are, on the host as a rule [Bq, Bk].
        labels: Label of each of them [P].
        rest: Label of all other cells.
        soft: Labels of all cells, the fixed ones too; None: ``labels`` and ``rest`` say all [Bq, Bk].
    """

    along: Literal[0, 1]
    fixed: PairSet
    labels: Tensor  # [P]
    rest: float
    soft: Tensor | None = None  # [Bq, Bk]

    @classmethod
    def of(
        cls, direction: Direction, anchors: int, candidates: int, like: Tensor, *, along: Literal[0, 1]
    ) -> "CellLabels":
        """Read a direction.

        Args:
            direction: Positives or soft targets, weights and smoothing [A, C].
            anchors: A.
            candidates: C.
            like: Tensor whose dtype and device labels and weights get.
            along: Dimension of the candidates.

        Raises:
            ValueError: A set belongs to a matrix of another shape, or a label is not a number from 0 to 1.
        """
        positives = direction.resolved_positives((anchors, candidates), like.device)
        _check(positives.values if direction.soft is None else direction.soft)
        fixed = positives.with_values(torch.ones_like(positives.values, dtype=like.dtype))
        if direction.weights is not None:
            fixed = PairSet.joined(fixed, direction.weights)
        fixed = fixed.with_values(fixed.values[fixed.firsts()])
        known, rest = 1.0 - direction.smoothing, direction.smoothing / candidates
        soft = None
        if direction.soft is None:
            labels = fixed.with_values(torch.zeros_like(fixed.values)).overridden_by(positives).values * known + rest
            labels = sent(labels, like.device)
        else:
            soft = direction.soft.detach().to(like.dtype) * known + rest
            there = fixed.to(like.device)
            labels = soft[there.rows, there.columns]
        if along == 1:
            return cls(along, fixed, labels, rest, soft)
        return cls(along, fixed.T, labels, rest, None if soft is None else soft.T)

    def by_keys(self) -> "CellLabels":
        """The same cells, where the keys are the anchors."""
        return replace(self, along=0)

    def dense(self, log_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Labels and weights of all cells, given the logarithms of the regulation's weights [Bq, Bk] each."""
        fixed = self.fixed.to(self.labels.device)
        cells = fixed.rows, fixed.columns
        labels = self.soft
        if labels is None:
            labels = self.labels.new_full(fixed.shape, self.rest)
            labels[cells] = self.labels
        if log_weights is None:
            weights = torch.ones_like(labels)
        elif self.along == 1:
            weights = normalised_weights(log_weights, ~fixed.mask())
        else:
            weights = normalised_weights(log_weights.T, ~fixed.mask().T).T
        weights[cells] = fixed.values
        return labels, weights


def _check(labels: Tensor) -> None:
    """Refuse labels that are no numbers from 0 to 1, of any shape.

    Compiled code does so on the device, which raises what a failed assertion of torch's raises.

    Raises:
        ValueError: There are such.
    """
    wrong = ((labels < 0) | (labels > 1 + _ROUNDING)).any()
    what = "The sigmoid loss takes shares and soft targets as labels; give numbers from 0 to 1."
    if torch.compiler.is_compiling():
        torch._assert_async(~wrong, what)
    elif bool(wrong):
        raise ValueError(what)


def dense_sum(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    bias: Tensor,
    directions: Sequence[CellLabels],
    regulation: Regulation | None,
    *,
    key_gradient: bool,
) -> Tensor:
    """Sum of the losses of all cells over the directions, a scalar. Memory O(Bq Bk).

    Args:
        queries: Features [Bq, D].
        keys: Features [Bk, D].
        scale: 1 / temperature, scalar.
        bias: Scalar.
        directions: Labels and weights, one or two.
        regulation: Weights of the cells that have none of their own; None: all 1.
        key_gradient: Whether an anchor's candidates get a gradient.
    """
    log_weights = None
    if regulation is not None:
        everything = slice(None)
        log_weights = regulation.log_weights(everything, everything, queries.detach() @ keys.detach().T)
    total = queries.new_zeros(())
    for direction in directions:
        left = queries if key_gradient or direction.along == 1 else queries.detach()
        right = keys if key_gradient or direction.along == 0 else keys.detach()
        labels, weights = direction.dense(log_weights)
        logits = left @ right.T * scale + bias
        total = total + F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
    return total
