"""Sharpness of the SRCL weights, set to what the paper reports instead of to a constant.

The paper gives no delta, but two statistics of the weights it trained with: about 20 % of the negatives are below 0.7,
and false negatives are at or below 0.2 (section 4.3, appendix F). How sharp the weights must be for that depends on how
far the cosines of the model spread, so it is measured on batches of that model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.objectives.regulation import LEAST_TAU_W, MOST_DELTA, Regulation, RegulationConfig, normalised_weights

_HALVINGS = 40


class _Knob(NamedTuple):
    """The constant that sharpens a form: a value at which all weights are about 1, and the sharpest one."""

    name: str
    mild: float
    sharp: float
    turned: Callable[[RegulationConfig, float], RegulationConfig]


_KNOBS = {
    "softmax": _Knob("delta", 1e-3, MOST_DELTA, lambda config, value: replace(config, delta=value)),
    "tempered": _Knob("tau_w", 1e3, LEAST_TAU_W, lambda config, value: replace(config, tau_w=value)),
}


@dataclass(frozen=True)
class CalibrationConfig:
    """What the weights are calibrated to.

    Attributes:
        share: Share of the negatives that shall be below the mark.
        below: The mark.
    """

    share: float = 0.2
    below: float = 0.7

    def __post_init__(self) -> None:
        if not (0.0 < self.share < 1.0 and 0.0 < self.below < 1.0):
            raise ConfigError("srcl.calibrate: share and below must lie between 0 and 1, ends excluded")


def calibrated(
    regulation: Regulation, similarity: Tensor, negatives: Tensor, config: CalibrationConfig | None = None
) -> Regulation:
    """The regulation with the mildest delta (softmax form) or tau_w (tempered form) that reaches the statistic.

    Args:
        regulation: Form, alpha and seed features of a batch.
        similarity: Cosines of the current model in that batch [A, C].
        negatives: Which candidates are negatives, bool [A, C].
        config: The statistic; the paper's when absent.

    Returns:
        The regulation with another config.

    Raises:
        ConfigError: If the form has nothing to calibrate, or the statistic is out of its reach.
    """
    config = config or CalibrationConfig()
    if regulation.config.form not in _KNOBS:
        raise ConfigError("srcl.weights.form 'literal' has nothing to calibrate; use 'softmax' or 'tempered'")
    knob = _KNOBS[regulation.config.form]

    def reaches(value: float) -> bool:
        """Whether enough weights are below the mark."""
        candidate = replace(regulation, config=knob.turned(regulation.config, value))
        log_weights = candidate.log_weights(slice(None), slice(None), similarity.detach().float())
        weights = normalised_weights(log_weights, negatives)[negatives]
        return float((weights < config.below).float().mean()) >= config.share

    if not reaches(knob.sharp):
        raise ConfigError(
            f"No srcl.{knob.name} puts {config.share:.0%} of the negatives below {config.below}: "
            "their similarities hardly differ; train the seed model longer."
        )
    low, high = math.log(knob.mild), math.log(knob.sharp)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(math.exp(middle)) else (middle, high)
    return replace(regulation, config=knob.turned(regulation.config, math.exp(high)))


@dataclass(frozen=True)
class WeightHistogram:
    """How the weights of a batch are spread.

    Attributes:
        counts: Negatives per bin; the last bin takes all above the upper edge, int64 [bins + 1].
        edges: Edges of the bins, float [bins + 1].
        share_below_0_2: Share of the negatives at or below 0.2; the paper's false negatives are there.
        share_below_0_7: Share below 0.7; about 0.2 in the paper.
    """

    counts: Tensor
    edges: Tensor
    share_below_0_2: float
    share_below_0_7: float


def weight_histogram(weights: Tensor, negatives: Tensor, bins: int = 20, upper: float = 2.0) -> WeightHistogram:
    """Histogram of the weights of all negatives of a batch.

    Args:
        weights: Normalised weights [A, C].
        negatives: Which candidates are negatives, bool [A, C].
        bins: Number of bins between 0 and ``upper``.
        upper: Upper edge of the last proper bin.
    """
    values = weights[negatives].float()
    edges = torch.linspace(0.0, upper, bins + 1, device=values.device)
    counts = torch.bincount(torch.bucketize(values, edges[1:], right=True), minlength=bins + 1)
    total = max(len(values), 1)
    return WeightHistogram(counts, edges, float((values <= 0.2).sum()) / total, float((values < 0.7).sum()) / total)
