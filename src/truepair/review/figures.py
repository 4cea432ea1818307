"""How a review stands: how good the judge is on answers that it did not see, and how far people agree."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.evaluation.detectors import average_precision_interval, reliability
from truepair.judges.answered import AnsweredFit, Doubles, Integers
from truepair.judges.calibration import calibrated
from truepair.mining.candidates import Candidates
from truepair.mining.certification import expected_matches
from truepair.review.answers import KINDS, Answer
from truepair.review.cells import Cell, Opinions

PRECISIONS = (0.8, 0.9, 0.95)
"""At which it is said how many matches the judge expects."""

MORE = 100
"""Answers that the forecast is about."""

_LEAST = 20  # answers before figures are given
_LEAST_MATCHES = 3
_JUDGES = ("itm", "vlm", "dual")  # families of signals that are log-odds, or a cosine, of judges that were asked
_EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
_RECENT = 30  # answers that the pace is measured on


@dataclass(frozen=True)
class Judged:
    """The candidates that people judged, the first judged first.

    Attributes:
        numbers: of the candidates [A].
        shares: of people who said that they match [A].
        pictures: number of each one's picture [A].
    """

    numbers: Integers
    shares: Doubles
    pictures: Integers


def judge_figures(judged: Judged, fit: AnsweredFit) -> dict[str, Any]:
    """Average precision on held-back answers with its interval, what more answers would bring, and reliability.

    All are about the pairs that were asked, which are harder than others. The forecast takes it that average precision
    comes near its end as one over the root of the number of answers, through what half of the answers and all of them
    reach.

    Args:
        judged: what the fit was made on.
        fit: with log-odds held back.
    """
    clear = judged.shares != 0.5
    labels = torch.from_numpy(judged.shares > 0.5)[clear]
    found: dict[str, Any] = {"average_precision": None, "more": None, "reliability": []}
    matches, count = int(labels.sum()), len(labels)
    if count < _LEAST or matches < _LEAST_MATCHES or matches == count:
        return found
    groups = torch.from_numpy(judged.pictures)[clear]
    scores = torch.from_numpy(fit.held_back)[clear]
    whole = average_precision_interval(scores, labels, groups)
    found["average_precision"] = {"value": whole.value, "low": whole.low, "high": whole.high, "answers": count}
    half = average_precision_interval(torch.from_numpy(fit.by_half)[clear], labels, groups, resamples=1).value
    steepness = max(whole.value - half, 0.0) / ((count / 2) ** -0.5 - count**-0.5)
    gain = steepness * (count**-0.5 - (count + MORE) ** -0.5)
    found["more"] = {"answers": MORE, "average_precision": min(whole.value + gain, 1.0)}
    found["reliability"] = bins(scores.sigmoid().numpy(), labels.numpy())
    return found


def signal_reliability(candidates: Candidates, judged: Judged) -> dict[str, list[dict[str, Any]]]:
    """Reliability of each judge that was asked, by the name of its signal; calibrated on answers about other pictures.

    An ITM head and a vision-language model state a probability of their own: it stands beside it, "as it says". A
    cosine states none.
    """
    clear = judged.shares != 0.5
    found = {}
    for family in _JUDGES:
        for column in candidates.columns(family):
            name = candidates.names[column]
            odds = candidates.signals[judged.numbers, column].astype(np.float64)
            asked = clear & np.isfinite(odds)
            labels = judged.shares[asked] > 0.5
            if len(labels) < _LEAST:
                continue
            mended = calibrated(odds[asked], labels, judged.pictures[asked])
            if mended is None:
                continue
            found[name] = bins(mended, labels)
            if family != "dual":
                found[f"{name}, as it says"] = bins(1 / (1 + np.exp(-odds[asked])), labels)
    return found


def bins(probabilities: NDArray[np.floating], labels: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Stated against found shares of matches, with the 95 % interval of what was found (Wilson, 1927)."""
    from scipy.stats import binomtest

    drawn = []
    for one in reliability(torch.from_numpy(probabilities.astype(np.float64)), torch.from_numpy(labels), _EDGES):
        ends = binomtest(round(one.true * one.pairs), one.pairs).proportion_ci(method="wilson")
        drawn.append(
            {
                "predicted": one.predicted,
                "observed": one.true,
                "low": float(ends.low),
                "high": float(ends.high),
                "pairs": one.pairs,
            }
        )
    return drawn


def expected_figures(probabilities: NDArray[np.float32], free: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How many unjudged pairs the judge expects at several precisions, and from which probability on."""
    found = []
    for precision in PRECISIONS:
        pairs, threshold = expected_matches(probabilities, free, precision)
        found.append({"precision": precision, "pairs": pairs, "threshold": threshold})
    return found


def people_figures(answers: Mapping[tuple[str, Cell], Answer], opinions: Opinions) -> dict[str, Any]:
    """Answers by kind and by person, matches found, and agreement."""
    kinds = dict.fromkeys(KINDS, 0) | Counter(answer.answer for answer in answers.values())
    people: dict[str, Counter[str]] = {}
    for (person, _), answer in answers.items():
        people.setdefault(person, Counter())[answer.answer] += 1
    matches = sum(
        sum(said is True for said in each.values()) > sum(said is False for said in each.values())
        for each in opinions.values()
    )
    return {
        "answers": kinds,
        "people": {person: dict(counts) for person, counts in people.items()},
        "matches": matches,
        "agreement": agreement(opinions.values()),
    }


def agreement(opinions: Iterable[Mapping[str, bool | None]]) -> dict[str, Any] | None:
    """On how many pairs people say the same, and Cohen's kappa (1960) over all pairs of people; None without any."""
    from sklearn.metrics import cohen_kappa_score

    said = []
    for each in opinions:
        clear = [match for _, match in sorted(each.items()) if match is not None]
        said += list(combinations(clear, 2))
    if not said:
        return None
    first, second = zip(*said, strict=True)
    several = len({*first, *second}) > 1  # else chance alone agrees, and kappa is not defined
    kappa = float(cohen_kappa_score(first, second)) if several else None
    return {"pairs": len(said), "agreed": sum(a == b for a, b in said), "kappa": kappa}


def seconds_each(answers: Iterable[Answer]) -> float | None:
    """Median time of a person's last answers, seconds."""
    times = [answer.seconds for answer in answers if answer.seconds is not None and answer.seconds > 0]
    return float(median(times[-_RECENT:])) if times else None
