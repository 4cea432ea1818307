"""The certificate: how precise a judge is above a threshold, from a random sample that people judge.

The judge and a ladder of thresholds are fixed by the answers so far. Then pairs that nobody has answered are drawn, and
asked. One random order of them serves all thresholds: the sample of a threshold is the first so many pairs of that
order which lie above it, which is a uniform sample without replacement, and samples share most of their pairs.

What is guaranteed. For each threshold the chance to state a precision that does not hold is at most 1 - confidence:
sizes are fixed before the first question, and the bound is that of Clopper and Pearson (Biometrika 26, 1934),
one-sided; it is for draws with replacement, and without it the chance is smaller still (Uhlmann, Metrika 10, 1966).
Thresholds are tested from the strictest to the loosest and testing ends with the first that fails, so that the
chance that any statement is wrong is no larger than that of one (fixed-sequence testing; Angelopoulos et al., Learn
then Test, 2021). It holds for the pairs that nobody had judged, whatever the judge is worth: a poor one gets no
certificate. An answer that is no clear "yes", or that another person contradicts, counts as no match. A second attempt
has the same chance for itself, so that attempts are counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from truepair.errors import ConfigError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

LADDER = (0.1, 0.25, 0.4, 0.55)
"""Expected shares of non-matches of the thresholds, in parts of the share that the precision allows."""

POWER = 0.9
"""The chance that a threshold passes, if the judge's expectation is right."""

_LARGEST = 500  # pairs of a sample: a threshold that needs more is left out
_LEAST_GAIN = 1.2  # a further threshold must have so many times the pairs of the one before
_LEAST_PAIRS = 1.5  # times the pairs of its sample: else asking them all is no more work


@dataclass(frozen=True)
class Rung:
    """A threshold and its sample.

    Attributes:
        threshold: probability from which on pairs are meant.
        pairs: how many unjudged pairs are above it.
        sample: numbers of the candidates that are asked.
        misses: so many of them may be no match.
    """

    threshold: float
    pairs: int
    sample: tuple[int, ...]
    misses: int


@dataclass(frozen=True)
class Plan:
    """What is asked for a certificate, fixed before the first question.

    Attributes:
        precision: to be stated.
        confidence: of the statement.
        rungs: thresholds, the strictest first.
    """

    precision: float
    confidence: float
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Progress:
    """How far a plan has come.

    Attributes:
        passed: rungs that hold, of the strictest on.
        over: whether nothing more needs to be asked.
        rung: the one that is being asked, or the last that was.
        asked: how many of its sample are answered.
        matched: how many of those match.
        waiting: its pairs that are not answered yet, in the order in which they are asked.
    """

    passed: int
    over: bool
    rung: Rung
    asked: int
    matched: int
    waiting: tuple[int, ...]


def lower_bound(matched: int, asked: int, confidence: float = 0.95) -> float:
    """Least share of matches that a sample leaves possible: one-sided, by Clopper and Pearson."""
    from scipy.stats import beta

    return 0.0 if matched == 0 else float(beta.ppf(1 - confidence, matched, asked - matched + 1))


def allowed_misses(asked: int | Integers, precision: float, confidence: float = 0.95) -> Integers:
    """How many of a sample may be no match so that the bound is at least ``precision``; -1 where none may."""
    from scipy.stats import binom

    asked = np.asarray(asked)
    least = np.asarray(binom.ppf(1 - confidence, asked, 1 - precision))  # P(misses <= least) >= 1 - confidence
    exact = binom.cdf(least, asked, 1 - precision) <= 1 - confidence
    found: Integers = np.where(exact, least, least - 1).astype(np.int64)
    return found


def sample_size(expected: float, precision: float, confidence: float = 0.95, power: float = POWER) -> int | None:
    """Least sample by which a set of pairs passes with a chance of at least ``power``.

    Args:
        expected: share of matches in the set.
        precision: to be stated.
        confidence: of the statement.
        power: that chance.

    Returns:
        Its size; None where it would be above 500.
    """
    from scipy.stats import binom

    sizes = np.arange(1, _LARGEST + 1)
    misses = allowed_misses(sizes, precision, confidence)
    enough = np.flatnonzero(binom.cdf(misses, sizes, 1 - expected) >= power)
    return int(sizes[enough[0]]) if len(enough) else None


def expected_matches(probabilities: Floats, free: Flags, precision: float) -> tuple[int, float]:
    """The most free pairs whose mean probability is at least ``precision``.

    Args:
        probabilities: of the candidates [P].
        free: which are meant [P].
        precision: wanted.

    Returns:
        How many they are, and the least probability among them; 0 pairs and 1 where there are none.
    """
    values = np.sort(probabilities[free])[::-1].astype(np.float64)
    last = np.append(values[1:] < values[:-1], True)[: len(values)]  # equal ones are in, or out, together
    enough = np.flatnonzero((np.cumsum(values) >= precision * np.arange(1, len(values) + 1)) & last)
    return (int(enough[-1]) + 1, float(values[enough[-1]])) if len(enough) else (0, 1.0)


def plan_certificate(
    probabilities: Floats,
    free: Flags,
    precision: float,
    confidence: float = 0.95,
    *,
    seed: int,
    ladder: Sequence[float] = LADDER,
) -> Plan:
    """Choose thresholds and draw their samples.

    Args:
        probabilities: of the candidates, by the judge that is to be certified [P].
        free: those that nobody has answered [P].
        precision: to be stated.
        confidence: of the statement.
        seed: of the sample.
        ladder: expected shares of non-matches, in parts of the share that ``precision`` allows; ascending.

    Raises:
        ConfigError: numbers out of range, or no threshold promises that precision.
    """
    if not 0 < precision < 1 or not 0.5 <= confidence < 1:
        raise ConfigError("a certificate needs a precision between 0 and 1 and a confidence from 0.5 up to below 1")
    order = np.random.default_rng(seed).permutation(np.flatnonzero(free))
    values = probabilities[order]
    rungs: list[Rung] = []
    for part in ladder:
        expected = 1 - part * (1 - precision)
        pairs, threshold = expected_matches(probabilities, free, expected)
        size = sample_size(expected, precision, confidence)
        if size is None or pairs < max(_LEAST_PAIRS * size, _LEAST_GAIN * rungs[-1].pairs if rungs else 0):
            continue
        sample = order[values >= np.float32(threshold)][:size]
        misses = int(allowed_misses(size, precision, confidence))
        rungs.append(Rung(threshold, pairs, tuple(sample.tolist()), misses))
    if not rungs:
        pairs, _ = expected_matches(probabilities, free, precision)
        raise ConfigError(
            f"the judge expects {precision:.0%} of {pairs:,} unjudged pairs to match, too few of them or too close for "
            "a certificate; answer more pairs, or state a lower precision"
        )
    return Plan(precision, confidence, tuple(rungs))


def progress_of(plan: Plan, found: Mapping[int, bool]) -> Progress:
    """How far a plan has come.

    A threshold fails as soon as more of its sample than may be are no match, whatever the rest would say.

    Args:
        plan: what is asked.
        found: whether each answered candidate matches.
    """
    for passed, rung in enumerate(plan.rungs):
        answered = [found[number] for number in rung.sample if number in found]
        waiting = tuple(number for number in rung.sample if number not in found)
        matched = sum(answered)
        failed = len(answered) - matched > rung.misses
        if failed or waiting:
            return Progress(passed, failed, rung, len(answered), matched, waiting)
    return Progress(len(plan.rungs), True, rung, len(answered), matched, ())
