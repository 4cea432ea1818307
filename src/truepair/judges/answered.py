"""The judge that is fitted on people's answers: what is known before anyone has answered, moved by what they say.

    log-odds = weight * prior + constant + signals . weights

with the weight near 1, the constant near 0 and the weights of the signals near 0, unless answers say otherwise: the
most probable values under normal distributions around those. So without answers the judge is the prior, with few it is
close to it, and with many the answers decide. scikit-learn's logistic regression draws all weights towards 0, and takes
no part of the log-odds as given; the same penalised likelihood is minimised here by SciPy.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truepair.errors import CheckpointError, ConfigError
from truepair.files import write_json
from truepair.models.encoders.fingerprint import combined_key

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROWS = 1 << 16  # rows of the signals looked at together
_LEAST_SPREAD = 1e-6
_SCALE_SPREAD = 2.0  # standard deviation, around 1, of what the log-odds are multiplied by in the end
_LEAST_SCALE = 0.1
_FURTHEST = 10.0  # standard deviations; one broken value must not decide


@dataclass(frozen=True, kw_only=True)
class AnsweredConfig:
    """How far answers move the judge.

    Attributes:
        variance: of the weights of the standardised signals (scikit-learn's C).
        prior_spread: standard deviation of the weight of the prior around 1.
        constant_spread: standard deviation of the constant around 0.
        folds: parts that the pictures of the answers are dealt into, each judged by a fit on the others.

    Raises:
        ConfigError: a number out of range.
    """

    variance: float = 0.1
    prior_spread: float = 0.5
    constant_spread: float = 3.0
    folds: int = 5

    def __post_init__(self) -> None:
        if min(self.variance, self.prior_spread, self.constant_spread) <= 0 or self.folds < 2:
            raise ConfigError("a judge of answers needs spreads above 0 and at least 2 folds")


@dataclass(frozen=True)
class Standardised:
    """Signals of scale 1, in which what a signal does not say is its mean.

    Attributes:
        values: [P, S].
        centre: mean of each signal where it speaks [S].
        spread: its standard deviation [S]; 1 for a signal that is always the same.
    """

    values: Floats
    centre: Floats
    spread: Floats

    @classmethod
    def of(cls, signals: Floats) -> "Standardised":
        """Standardise signals [P, S]; NaN where one says nothing."""
        count, total = np.zeros((2, signals.shape[1]))
        for part in _parts(signals):
            count += np.isfinite(part).sum(0)
            total += np.where(np.isfinite(part), part, 0).sum(0, dtype=np.float64)
        centre = total / np.maximum(count, 1)
        squares = np.zeros(signals.shape[1])
        for part in _parts(signals):
            squares += np.square(np.where(np.isfinite(part), part - centre, 0)).sum(0)
        spread = np.sqrt(squares / np.maximum(count, 1))
        spread[spread < _LEAST_SPREAD] = 1.0
        return cls.by(signals, centre.astype(np.float32), spread.astype(np.float32))

    @classmethod
    def by(cls, signals: Floats, centre: Floats, spread: Floats) -> "Standardised":
        """Standardise signals [P, S] by what others have been."""
        values = np.empty(signals.shape, np.float32)
        for start in range(0, len(signals), _ROWS):
            part = (signals[start : start + _ROWS] - centre) / spread
            part[~np.isfinite(part)] = 0.0
            values[start : start + _ROWS] = np.clip(part, -_FURTHEST, _FURTHEST)
        return cls(values, centre, spread)


@dataclass(frozen=True, kw_only=True)
class AnsweredJudge:
    """Probabilities from signals and the prior.

    Attributes:
        names: of the signals [S].
        centre: what is taken from each signal [S].
        spread: what it is then divided by [S].
        weights: of the standardised signals [S].
        prior_weight: weight of the prior's log-odds.
        constant: added to the log-odds.
        answers: pairs that people judged, which it was fitted on.
        matches: how many of them match.
    """

    names: tuple[str, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    prior_weight: float = 1.0
    constant: float = 0.0
    answers: int = 0
    matches: float = 0.0

    def log_odds(self, signals: Floats, prior: Floats) -> Floats:
        """Log-odds of pairs.

        Args:
            signals: in the order of ``names`` [P, S]; NaN where one says nothing.
            prior: log-odds before anyone has answered [P].
        """
        centre, spread = (np.array(values, np.float32) for values in (self.centre, self.spread))
        return self.log_odds_of(Standardised.by(signals, centre, spread).values, prior)

    def log_odds_of(self, values: Floats, prior: Floats) -> Floats:
        """Log-odds of pairs whose signals are standardised as this judge's are [P, S], with their prior [P]."""
        found: Floats = values @ np.array(self.weights, np.float32)
        found += np.float32(self.prior_weight) * prior
        found += np.float32(self.constant)
        return found

    @property
    def fingerprint(self) -> str:
        """Of all that decides its probabilities."""
        return combined_key(**{name: value for name, value in asdict(self).items() if name not in _TOLD})

    @property
    def name(self) -> str:
        """Of the judge in a ledger."""
        return f"reviewed:{self.fingerprint[:12]}"

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: Path) -> "AnsweredJudge":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            stated: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            read: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()
            }
            return cls(**read)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is no judge of answers ({error}); run truepair review again") from error


_TOLD = ("answers", "matches")  # of the judge, which decide nothing


@dataclass(frozen=True)
class AnsweredFit:
    """A judge, and what a fit on the other pictures' answers says of each answer.

    Attributes:
        judge: fitted on all answers, its scale and constant mended by ``held_back``.
        held_back: log-odds of each answer's pair, by fits on answers about other pictures, mended likewise [A]; the
            prior's where there were none.
        by_half: the same by fits on those of the first half of the answers [A]; not mended, for their order alone.
    """

    judge: AnsweredJudge
    held_back: Doubles = field(repr=False)
    by_half: Doubles = field(repr=False)


def fit_answered(
    names: Sequence[str],
    signals: Standardised,
    prior: Floats,
    which: Integers,
    shares: Doubles,
    pictures: Integers,
    config: AnsweredConfig | None = None,
) -> AnsweredFit:
    """Fit the judge on the pairs that people judged.

    The penalty makes the fit too shy, and asking about what is uncertain leaves it too bold elsewhere; so its log-odds
    get a scale and a constant of their own, by which answers about pictures that it did not see are most likely (Platt,
    1999), held near 1 and 0.

    Args:
        names: of the signals [S].
        signals: of all P pairs.
        prior: log-odds of all pairs before anyone has answered [P].
        which: numbers of the judged pairs, the first answered first [A].
        shares: of people who said that they match [A]; 0 or 1 where they agree.
        pictures: number of each judged pair's picture [A]; pairs of one are held back together.
        config: how far answers move it.
    """
    from threadpoolctl import threadpool_limits

    config = config or AnsweredConfig()
    inputs = np.column_stack([prior[which], np.ones(len(which)), signals.values[which]]).astype(np.float64)
    start = np.zeros(inputs.shape[1])
    start[0] = 1.0
    variances = np.full(inputs.shape[1], config.variance)
    variances[:2] = config.prior_spread**2, config.constant_spread**2
    with threadpool_limits(limits=1):  # small matrices: on busy cores more threads wait for each other
        found = most_probable(inputs, shares, start, variances)
        every = np.arange(len(which))
        held_back, by_half = (
            _held_back(inputs, shares, pictures, every < taught, start, variances, config.folds)
            for taught in (len(which), len(which) // 2)
        )
        columns = np.column_stack([held_back, np.ones(len(which))])
        scale, constant = most_probable(columns, shares, start[:2], np.array([_SCALE_SPREAD**2, variances[1]]))
    if scale < _LEAST_SCALE:  # a handful of answers that contradict the prior must not turn the order round
        scale, constant = 1.0, 0.0
    found = found * scale
    found[1] += constant
    judge = AnsweredJudge(
        names=tuple(names),
        centre=tuple(signals.centre.tolist()),
        spread=tuple(signals.spread.tolist()),
        weights=tuple(found[2:].tolist()),
        prior_weight=float(found[0]),
        constant=float(found[1]),
        answers=len(which),
        matches=float(shares.sum()),
    )
    return AnsweredFit(judge, scale * held_back + constant, by_half)


def most_probable(inputs: Doubles, shares: Doubles, start: Doubles, variances: Doubles) -> Doubles:
    """Weights of a logistic model that are most probable, given normal distributions of each.

    Args:
        inputs: [A, F].
        shares: of matches, between 0 and 1 [A].
        start: mean of each weight beforehand [F].
        variances: of each weight beforehand [F].

    Returns:
        [F]; ``start`` itself where nothing was answered.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if not len(inputs):
        return start

    def loss(weights: Doubles) -> float:
        """Negative logarithm of the probability, but for a constant."""
        found = inputs @ weights
        return float((np.logaddexp(0, found) - shares * found).sum() + ((weights - start) ** 2 / variances).sum() / 2)

    def gradient(weights: Doubles) -> Doubles:
        """Slope of the loss by each weight."""
        slope: Doubles = inputs.T @ (expit(inputs @ weights) - shares) + (weights - start) / variances
        return slope

    def curvature(weights: Doubles) -> Doubles:
        """Second derivatives of the loss."""
        chance = expit(inputs @ weights)
        matrix: Doubles = (inputs.T * (chance * (1 - chance))) @ inputs + np.diag(1 / variances)
        return matrix

    found: Doubles = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-6}).x
    return found


def _held_back(
    inputs: Doubles,
    shares: Doubles,
    pictures: Integers,
    taught: NDArray[np.bool_],
    start: Doubles,
    variances: Doubles,
    folds: int,
) -> Doubles:
    """Log-odds of each answer by a fit on those ``taught`` that are about pictures of the other folds [A]."""
    _, number = np.unique(pictures, return_inverse=True)
    fold = np.random.default_rng(0).permutation(number.max(initial=-1) + 1)[number] % folds  # [A]
    found = inputs @ start
    for one in range(folds):
        held, others = fold == one, (fold != one) & taught
        if held.any() and others.any():
            found[held] = inputs[held] @ most_probable(inputs[others], shares[others], start, variances)
    return found


def _parts(signals: Floats) -> list[Floats]:
    return [signals[start : start + _ROWS] for start in range(0, len(signals), _ROWS)]
