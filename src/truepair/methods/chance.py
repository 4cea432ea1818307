"""Whether ITC has left chance: what it is where no pair differs from another, and a line where it stays there."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

LEFT = 0.01
"""Share of chance by which ITC must be lower to have left it."""

RECENT = 5
"""Logged steps whose mean counts."""

_ROUNDING = 1e-3
"""Share of a number of candidates that comes of float32 alone."""


def loss_of_constant(loss_at: Callable[[float], Tensor]) -> Tensor:
    """The lowest sigmoid loss that one logit for all cells can have, a scalar: the bias alone, and no features.

    At a logit c the loss is ``M softplus(-c) + N softplus(c)``, with the weights M of matches and N of other cells. It
    is lowest where sigmoid(c) = M / (M + N), and is (M + N) times the entropy of that share. Far from 0 a softplus is 0
    or c itself, which tells M and N.

    Args:
        loss_at: the loss where all cells have a logit.
    """
    far = 100.0
    matches, others = loss_at(-far) / far, loss_at(far) / far
    share = matches / (matches + others)
    return (matches + others) * -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))


class ChanceWatch:
    """Looks at the logged figures of ITC, and says once that it has not left chance.

    A collapsed model gives all pairs one score: ITC is then the logarithm of the number of candidates, whatever the
    targets are, and stays there without another sign.

    Args:
        steps: after the warm-up, from which on it is judged; a shorter run is judged at its end.
        warmup: from the steps of the whole run to those of its warm-up.
        softmax: whether chance is the logarithm of a number of candidates.
    """

    def __init__(self, steps: int, warmup: Callable[[int], int], *, softmax: bool = True) -> None:
        self.steps = steps
        self.warmup = warmup
        self.softmax = softmax
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._told = False

    def look(self, step: int, total_steps: int, values: Mapping[str, Any]) -> str | None:
        """Take in the figures of a logged step; a line the first time that ITC should have left chance and has not.

        Args:
            step: finished steps.
            total_steps: of the whole run.
            values: figures of the step; without ``itc_chance`` they are not looked at.
        """
        itc, chance = values.get("itc"), values.get("itc_chance")
        if itc is None or chance is None or not math.isfinite(itc + chance):
            return None
        self._recent.append((itc, chance))
        due = self.warmup(total_steps) + self.steps
        enough = step >= due and len(self._recent) == RECENT
        if self._told or not (enough or step >= total_steps):
            return None
        itc, chance = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
        if itc < (1.0 - LEFT) * chance:
            return None
        self._told = True
        candidates = f", ln of {_candidates(math.exp(chance))}" if self.softmax else ""
        short = "" if step >= due else "; or the run is too short"
        return (
            f"ITC has not left chance after {step:,} steps: it is {itc:.3f}, and {chance:.3f} where no pair differs "
            f"from another{candidates}. Look at optimizer.learning_rate (too high, or next to nothing), the "
            f"temperature ({values['temperature']:.3g}), what is frozen, and whether pictures or captions are all "
            f"alike{short}"
        )


def _candidates(mean: float) -> str:
    """A number of candidates in words; "about" where it is a mean of some that have more and others that have fewer."""
    whole = round(mean)
    return f"{'' if abs(mean - whole) < _ROUNDING * mean else 'about '}{whole:,} candidates"
