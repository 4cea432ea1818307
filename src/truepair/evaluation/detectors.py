"""How well scores of judged pairs tell matches from others, and how far probabilities can be believed.

scikit-learn and SciPy are imported where they are used: they take seconds, and training measures no detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.evaluation.bootstrap import ENDS, drawn_groups
from truepair.evaluation.metrics import Estimate

RECALLS = (0.1, 0.25, 0.5)

_BINS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class DetectorMetrics:
    """Figures of one detector. Equal scores share one place.

    Attributes:
        auc: area under the ROC curve: how often a match has a higher score than another pair.
        average_precision: mean, over the matches, of the precision down to their places.
        precision_at_recall: best precision at which at least this share of the matches is found.
    """

    auc: float
    average_precision: float
    precision_at_recall: dict[float, float]


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of about the same predicted probability.

    Attributes:
        low: least probability of the bin.
        high: its upper end.
        pairs: how many there are.
        predicted: their mean probability.
        true: share of matches among them.
    """

    low: float
    high: float
    pairs: int
    predicted: float
    true: float


def detector_metrics(scores: Tensor, labels: Tensor, recalls: Sequence[float] = RECALLS) -> DetectorMetrics:
    """Figures of scores against labels.

    Args:
        scores: higher is more likely a match [P].
        labels: bool [P].
        recalls: shares of the matches at which precision is wanted.

    Raises:
        DataError: all labels are the same.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    _check(labels)
    truth, values = labels.numpy(), scores.numpy()
    precision, recall, _ = precision_recall_curve(truth, values)
    precision, recall = precision[:-1], recall[:-1]  # the last point of the curve is made up: no pair is above it
    return DetectorMetrics(
        auc=float(roc_auc_score(truth, values)),
        average_precision=float(average_precision_score(truth, values)),
        precision_at_recall={least: float(precision[recall >= least - 1e-9].max()) for least in recalls},
    )


def average_precision_interval(
    scores: Tensor, labels: Tensor, groups: Tensor, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Average precision with a 95 % bootstrap interval over groups, such as photos, whose pairs are drawn together.

    Args:
        scores: higher is more likely a match [P].
        labels: bool [P].
        groups: what each pair is drawn with, int64 [P].
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: all labels are the same.
    """
    _check(labels)
    # scikit-learn weighs pairs in one draw at a time, sorting anew; here they are sorted once for all draws.
    order, last = _places(scores)
    match = labels[order].double()
    values = [_weighted_precision(counts, match, last) for counts in drawn_groups(groups[order], resamples, seed)]
    value = float(_weighted_precision(torch.ones_like(match)[None], match, last))
    points = torch.tensor(ENDS, dtype=torch.float64) / 100  # numpy rounds the last bit otherwise than torch
    low, high = torch.cat(values).nanquantile(points).tolist()  # a draw without any match has no precision
    return Estimate(value, low, high)


def reliability(probabilities: Tensor, labels: Tensor, edges: Sequence[float] = _BINS) -> list[ReliabilityBin]:
    """Predicted probabilities against shares of matches, by bins [low, high); empty ones are left out.

    Args:
        probabilities: between 0 and 1 [P].
        labels: bool [P].
        edges: ends of the bins, ascending; the last bin takes 1 as well.
    """
    from scipy.stats import binned_statistic  # calibration_curve of scikit-learn has no bins of one's own choice

    values = probabilities.double().numpy()
    columns = [values, labels.double().numpy(), np.ones(len(values))]
    sums = binned_statistic(values, columns, "sum", bins=np.asarray(edges, dtype=np.float64)).statistic  # [3, bins]
    return [
        ReliabilityBin(low, high, int(pairs), float(predicted / pairs), float(true / pairs))
        for (low, high), (predicted, true, pairs) in zip(pairwise(edges), sums.T, strict=True)
        if pairs
    ]


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Mean squared difference of probabilities [P] and outcomes bool [P] (Brier, 1950); 0 is best."""
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(labels.numpy(), probabilities.double().numpy()))


@dataclass(frozen=True)
class SuspectPrecision:
    """Precision among the first places of a ranking of suspects.

    Attributes:
        depth: places asked for; fewer are looked at if the ranking is shorter.
        judged: suspects among them whose truth is known.
        true: judged suspects that are true matches.
    """

    depth: int
    judged: int
    true: int

    @property
    def value(self) -> float | None:
        """Share of true matches among the judged suspects; None if none is judged."""
        return self.true / self.judged if self.judged else None


def precision_at(flags: Sequence[bool | None], depths: Sequence[int] = (50, 200)) -> list[SuspectPrecision]:
    """Precision of a ranking of suspected false negatives at several depths.

    Args:
        flags: for each suspect, strongest first: is it a true match? None where nobody knows, or where it is a
            near-match to be left out of strict scores; such a suspect takes its place but is not judged.
        depths: numbers of places.

    Raises:
        ConfigError: if a depth is not positive.
    """
    if min(depths, default=1) < 1:
        raise ConfigError(f"precision at {min(depths)} suspects is not defined; use depths of 1 or more")
    tops = [[flag for flag in flags[:depth] if flag is not None] for depth in depths]
    return [SuspectPrecision(depth, len(top), sum(top)) for depth, top in zip(depths, tops, strict=True)]


def _check(labels: Tensor) -> None:
    """Refuse labels of one kind."""
    if bool(labels.all()) or not bool(labels.any()):
        raise DataError("judged pairs that are all alike measure no detector; give matches and others")


def _places(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Order from the highest score down [P], and the last position of the pairs with the same score as each [P]."""
    order = scores.argsort(descending=True, stable=True)
    _, place, sizes = scores[order].unique_consecutive(return_inverse=True, return_counts=True)
    return order, (sizes.cumsum(0) - 1)[place]


def _weighted_precision(weights: Tensor, match: Tensor, last: Tensor) -> Tensor:
    """Average precision when each pair counts so many times: weights [R, P], sorted pairs [P], to [R]."""
    hits = weights * match  # [R, P]
    precision = hits.cumsum(1)[:, last] / weights.cumsum(1)[:, last].clamp(min=1)
    return (hits * precision).sum(1) / hits.sum(1)
