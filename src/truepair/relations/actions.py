"""Actions: what the losses make of a pair that a rule has found. Their fields stand in the rule beside them."""

from abc import ABC
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import torch
from torch import Tensor

from truepair.errors import ConfigError


class ItmRole(IntEnum):
    """What a pair may be in ITM."""

    NEGATIVE = 0
    EXCLUDED = 1
    MATCH = 2


class Action(ABC):
    """What becomes of a pair in each loss. The default is a plain negative.

    Attributes:
        name: As a rule names it.
        itm: What the pair may be in ITM.
    """

    name: ClassVar[str]
    itm: ClassVar[ItmRole] = ItmRole.NEGATIVE

    def shares(self, scores: Tensor) -> Tensor:
        """Share of the target row before normalisation; an own pair has 1 [P]."""
        return torch.zeros_like(scores)

    def weights(self, scores: Tensor) -> Tensor:
        """Weight among the candidates; NaN leaves it to the loss: 1, or what the regulation says [P]."""
        return torch.full_like(scores, torch.nan)


@dataclass(frozen=True)
class Keep(Action):
    """It is a negative, whatever later rules say."""

    name: ClassVar[str] = "keep"


@dataclass(frozen=True)
class Mask(Action):
    """It is neither: left out of the denominator, and never an ITM negative."""

    name: ClassVar[str] = "mask"
    itm: ClassVar[ItmRole] = ItmRole.EXCLUDED

    def weights(self, scores: Tensor) -> Tensor:
        """Weight 0 [P]."""
        return torch.zeros_like(scores)


@dataclass(frozen=True)
class Relabel(Action):
    """It is a match: a positive of ITC and ITM, and a row of MLM (ECM's conversion)."""

    name: ClassVar[str] = "relabel"
    itm: ClassVar[ItmRole] = ItmRole.MATCH

    def shares(self, scores: Tensor) -> Tensor:
        """As much as the own pair [P]."""
        return torch.ones_like(scores)


@dataclass(frozen=True)
class Reweight(Action):
    """It is a negative of less weight the surer the detector is: max(floor, 1 - score).

    Attributes:
        floor: Least weight.
    """

    floor: float = 0.0
    name: ClassVar[str] = "reweight"

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise ConfigError(f"reweight.floor is {self.floor}; use a number from 0 to 1.")

    def weights(self, scores: Tensor) -> Tensor:
        """Weights in [floor, 1] [P]."""
        return (1.0 - scores).clamp(self.floor, 1.0)


@dataclass(frozen=True)
class Skip(Action):
    """It stays a negative of ITC, but in ITM the next-hardest takes its place."""

    name: ClassVar[str] = "skip"
    itm: ClassVar[ItmRole] = ItmRole.EXCLUDED


@dataclass(frozen=True)
class Smooth(Action):
    """It gets a part of the target: a positive of a smaller share in ITC, and never an ITM negative.

    S-ITC spreads its smoothing over the whole row instead; that is ``Direction.smoothing``.

    Attributes:
        share: Share of the target for a score of 1, where an own pair has 1; it scales with the score.
    """

    share: float = 0.5
    name: ClassVar[str] = "smooth"
    itm: ClassVar[ItmRole] = ItmRole.EXCLUDED

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"smooth.share is {self.share}; use a number above 0, up to 1.")

    def shares(self, scores: Tensor) -> Tensor:
        """Shares in [0, share] [P]."""
        return self.share * scores.clamp(0.0, 1.0)
