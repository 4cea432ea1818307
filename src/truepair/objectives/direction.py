"""What one direction of the contrastive loss knows about its candidates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.relations.batch import BatchRelations, Side
from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class Direction:
    """Targets y and candidate weights w of one direction (rows are anchors, columns are candidates).

    The target row of anchor i is ``(1 - smoothing) * positives_i + smoothing * uniform``. The positives are normalised
    to sum to 1; the uniform part spreads over the candidates that take part (weight above 0). A positive always has
    weight 1. A row without a positive has no target: its loss is 0 and it does not count in the mean.

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
        """Targets and weights that the relations of a batch ask for in one direction."""
        return cls(positives=relations.positives(side), smoothing=smoothing, weights=relations.weights(side))

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

        Raises:
            ValueError: If a set belongs to a matrix of another shape.
        """
        for pairs in (self.positives, self.weights):
            if pairs is not None and pairs.shape != shape:
                raise ValueError(f"The pairs are of a {pairs.shape} matrix, the logits of {shape}.")
        if self.positives is not None:
            return self.positives
        return PairSet.diagonal(*shape, self.offset, device=device)
