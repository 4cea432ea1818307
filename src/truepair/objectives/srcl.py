"""Weights of the negatives from cross-modal similarity (SRCL, ACL 2023, equations 6-9), and their calibration."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from truepair.errors import ConfigError

Form = Literal["literal", "softmax", "tempered"]

LEAST_TAU_W = 0.02

MOST_DELTA = 25.0
"""Sharpest constants: up to them every weight of cosines is a number in float32, and they are far beyond use."""


@dataclass(frozen=True)
class RegulationConfig:
    """How similarities become weights of mean 1 per anchor.

    Both the seed model's and the current model's similarity are exponentiated and mixed (equation 8):
    ``s = alpha * exp(seed / tau_w) + (1 - alpha) * exp(current / tau_w)``.

    Attributes:
        form: "literal" is equation 9 as written, with the mean as Norm and no temperature: ``w = (1/s) / mean(1/s)``.
            Delta cancels in it, and it cannot reach the weights the paper reports: a false negative at cosine 0.6
            keeps 0.57. "softmax" makes delta count: ``w = n * softmax(delta / s)``. "tempered" sharpens s:
            ``w = (1/s) / mean(1/s)`` with tau_w below 1. Both can be calibrated to the paper's statistic, about 20 %
            of negatives below 0.7.
        delta: Scaling factor of the softmax form.
        tau_w: Temperature of the tempered form.
    """

    form: Form = "literal"
    delta: float = 4.0
    tau_w: float = 0.25

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise ConfigError(f"srcl.weights.form is {self.form!r}; use one of {', '.join(_FORMS)}")
        if not 0.0 < self.delta <= MOST_DELTA:
            raise ConfigError(f"srcl.weights.delta is {self.delta}; use a number above 0, up to {MOST_DELTA}")
        if self.tau_w < LEAST_TAU_W:
            raise ConfigError(f"srcl.weights.tau_w is {self.tau_w}; use {LEAST_TAU_W} or more")

    @property
    def temperature(self) -> float:
        """Temperature inside the exponentials: 1 except in the tempered form."""
        return self.tau_w if self.form == "tempered" else 1.0

    @property
    def largest_log_weight(self) -> float:
        """Bound of the magnitude of log weights, for cosines."""
        return math.e * self.delta if self.form == "softmax" else 1.0 / self.temperature


@dataclass(frozen=True)
class Regulation:
    """The weights of one batch, computed for any tile of its similarity matrix. Nothing here has a gradient.

    Attributes:
        config: Form and constants.
        alpha: Weight of the seed model, 1 at the start of pre-training, falling; 0 uses the current model alone.
        seed_queries: Features of the queries by the frozen seed model, L2-normalised [Bq, S]; not needed at alpha 0.
        seed_keys: Features of the keys by the seed model [Bk, S].
    """

    config: RegulationConfig
    alpha: float = 0.0
    seed_queries: Tensor | None = None
    seed_keys: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha is {self.alpha}; use a number from 0 to 1.")
        if self.alpha > 0 and (self.seed_queries is None or self.seed_keys is None):
            raise ValueError(
                "alpha above 0 needs seed_queries and seed_keys; give the seed model's features or alpha=0."
            )

    def log_weights(
        self, rows: slice, columns: slice, similarity: Tensor, room: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Logarithm of the weights of a tile, before they are normalised to mean 1 per anchor.

        For cosines it lies within -80 and 80: its exponential needs no shift in float32.

        Args:
            rows: Rows of the tile.
            columns: Columns of the tile.
            similarity: Cosines of the current model in the tile [R, C].
            room: Two tensors to work in, of the shape and type of ``similarity``; the result is the first.

        Returns:
            A tensor of its own, or the first of ``room`` [R, C].
        """
        first, second = room or (torch.empty_like(similarity), torch.empty_like(similarity))
        mixed = self._mixed(rows, columns, similarity.detach(), first, second)
        return _FORMS[self.config.form](mixed, self.config)

    def _mixed(self, rows: slice, columns: slice, similarity: Tensor, out: Tensor, work: Tensor) -> Tensor:
        """Equation 8, written to ``out`` [R, C]."""
        if self.seed_queries is None or self.seed_keys is None or self.alpha == 0:
            return self._exponential(similarity, out)
        queries, keys = (seed.detach().to(out.dtype) for seed in (self.seed_queries[rows], self.seed_keys[columns]))
        seed = self._exponential(torch.mm(queries, keys.T, out=out), out)
        if self.alpha == 1:
            return seed
        return torch.lerp(self._exponential(similarity, work), seed, self.alpha, out=out)

    def _exponential(self, similarity: Tensor, out: Tensor) -> Tensor:
        """``exp(similarity / tau_w)``, written to ``out``; the plain forms are spared a pass for the division."""
        if self.config.temperature == 1.0:
            return torch.exp(similarity, out=out)
        return torch.div(similarity, self.config.temperature, out=out).exp_()


_FORMS: Mapping[str, Callable[[Tensor, RegulationConfig], Tensor]] = {
    "literal": lambda mixed, _: mixed.log_().neg_(),
    "tempered": lambda mixed, _: mixed.log_().neg_(),
    "softmax": lambda mixed, config: torch.div(mixed.new_full((), config.delta), mixed, out=mixed),
}


def normalised_weights(log_weights: Tensor, negatives: Tensor) -> Tensor:
    """Weights of mean 1 over each anchor's negatives (condition 2), 0 elsewhere.

    Args:
        log_weights: From :meth:`Regulation.log_weights` for whole rows [A, C].
        negatives: Which candidates are negatives, bool [A, C].

    Returns:
        Weights [A, C].
    """
    masked = log_weights.masked_fill(~negatives, -torch.inf)
    largest = masked.amax(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).min)
    weights = (masked - largest).exp()
    count = negatives.sum(dim=1, keepdim=True)
    return weights * count / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).tiny)


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
