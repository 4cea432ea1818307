"""Zones: two thresholds that turn a probability of matching into match, doubtful or negative."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from truepair.errors import ConfigError


class Zone(IntEnum):
    """Where a probability falls."""

    NONE = -1  # nobody was asked, or (open zones) the probability is exactly a threshold
    NEGATIVE = 0
    DOUBTFUL = 1
    MATCH = 2


@dataclass(frozen=True)
class Zones:
    """Thresholds on a probability of matching (ECM, COSMO/MAFA section 3).

    Attributes:
        low: Probabilities below it are negatives.
        high: Probabilities from here on are matches; between the two nobody can say.
        closed: A probability equal to ``high`` is a match, and one equal to ``low`` is doubtful; otherwise such pairs
            belong to no zone, as under the strict inequalities of the MAFA program.

    Raises:
        ConfigError: They are not 0 <= low <= high <= 1.

    Example:
        >>> Zones(0.5, 0.8).of(torch.tensor([0.2, 0.5, 0.8])).tolist()
        [0, 1, 2]
    """

    low: float = 0.5
    high: float = 0.8
    closed: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ConfigError(f"zones: low {self.low} and high {self.high} must satisfy 0 <= low <= high <= 1")

    def of(self, probabilities: Tensor) -> Tensor:
        """The :class:`Zone` of each probability, int64 of the same shape; NaN (not judged) is ``NONE``."""
        zones = torch.full(probabilities.shape, int(Zone.NONE), dtype=torch.long, device=probabilities.device)
        above = probabilities >= self.high if self.closed else probabilities > self.high
        between = (probabilities > self.low) & (probabilities < self.high)
        if self.closed:
            between = between | (probabilities == self.low) & (probabilities < self.high)
        zones = zones.masked_fill(probabilities < self.low, int(Zone.NEGATIVE))
        return zones.masked_fill(between, int(Zone.DOUBTFUL)).masked_fill(above, int(Zone.MATCH))
