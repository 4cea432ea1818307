"""Two ways to take exponentials of tiles of logits, for running sums and for gradients.

Logits that may be large need a shift of their own for every anchor, so one exponential for the rows and one for the
columns. Logits known to be moderate (features of length 1, temperature above 0.015) need none: rows and columns share
one exponential, and half of the passes over each tile are saved.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from truepair.objectives.logsumexp import RunningLogSumExp, RunningSum
from truepair.objectives.regulation import Regulation

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
        """An empty running log-sum-exp of ``length`` anchors."""

    @abstractmethod
    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """``grad * exp(z - log_sum)``, written to ``out``, which may be ``values``; the vectors broadcast [R, C]."""


class Shifted(Exponentials):
    """For any logits: the logits are kept, and each exponential is shifted by its anchor's maximum or sum."""

    nothing = -torch.inf

    def prepared(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits

    def running(self, length: int, dim: int, like: Tensor) -> RunningLogSumExp:
        """With a running maximum."""
        return RunningLogSumExp(length, dim, like)

    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """By an exponential."""
        return torch.sub(values, log_sum, out=out).exp_().mul_(grad)


class Moderate(Exponentials):
    """For logits of moderate size: their exponentials are kept."""

    nothing = 0.0

    def prepared(self, logits: Tensor) -> Tensor:
        """The exponentials."""
        return logits.exp_()

    def running(self, length: int, dim: int, like: Tensor) -> RunningSum:
        """A plain sum."""
        return RunningSum(length, dim, like)

    def gradient(self, values: Tensor, log_sum: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """By a product."""
        return torch.mul(values, grad * (-log_sum).exp(), out=out)


def exponentials_for(queries: Tensor, keys: Tensor, scale: Tensor, regulation: Regulation | None) -> Exponentials:
    """The cheaper way that is safe for these features; NaN and infinity take the one for any logits."""
    longest = queries.norm(dim=1).amax() * keys.norm(dim=1).amax()
    largest = float(longest * scale.abs()) + (regulation.config.largest_log_weight if regulation else 0.0)
    return Moderate() if largest <= _MODERATE[queries.dtype] else Shifted()
