"""Numbers that change as training advances: SRCL's alpha, distillation's alpha, the share of hard negatives."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from truepair.errors import ConfigError

Shape = Literal["constant", "linear", "cosine"]

_SHAPES: Mapping[str, Callable[[float], float]] = {
    # how far the way from start to end is done
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1.0 - math.cos(math.pi * progress)) / 2.0,
}


@dataclass(frozen=True)
class Schedule:
    """A value that moves from ``start`` to ``end`` while training goes from 0 to ``until``.

    SRCL's alpha: linear, 1 to 0. ALBEF's distillation alpha: linear, 0 to 0.4, until 1 / epochs.

    Attributes:
        shape: "constant" stays at ``start``.
        start: First value.
        end: Last value, kept from ``until`` on.
        until: Share of training after which the end is reached, above 0.
    """

    shape: Shape = "linear"
    start: float = 1.0
    end: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in _SHAPES:
            raise ConfigError(f"Schedule shape {self.shape!r} is unknown; use one of {', '.join(_SHAPES)}.")
        if self.until <= 0:
            raise ConfigError(f"Schedule 'until' is {self.until}; use a share of training above 0.")

    def at(self, progress: float) -> float:
        """Value after a share of training, 0 to 1."""
        done = _SHAPES[self.shape](min(max(progress / self.until, 0.0), 1.0))
        return self.start + (self.end - self.start) * done
