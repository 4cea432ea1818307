"""From evidence to probabilities: logistic regression for all judges that are fitted, and that of a cosine."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.data.table import PairTable
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.files import write_json
from truepair.judges.base import FeatureReader
from truepair.relations.similarity import paired_similarities, similarities

Doubles = NDArray[np.float64]

CALIBRATION_FILE = "calibration.json"
_TOLERANCE = 1e-10  # of the gradient of the mean loss
_BATCH = 64
_ROWS = 512  # rows of a similarity matrix held at once


def fit_logistic(inputs: Tensor, labels: Tensor, weights: Tensor | None = None, *, l2: float = 1e-3) -> Tensor:
    """Weights of the most likely logistic model.

    Args:
        inputs: float [P, F]; of a similar scale each, since the penalty is the same for all.
        labels: bool [P].
        weights: how many pairs each stands for [P]; 1 each when absent.
        l2: penalty on half the squared weights (the constant is free), relative to the total weight of the rarer label.

    Returns:
        float64 [F + 1]: a weight per input, and the constant.

    Raises:
        DataError: all labels are the same.
    """
    # Imported where it is used: it takes a second, which a run whose judge is already fitted need not wait for.
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if bool(labels.all()) or not bool(labels.any()):
        raise DataError("a calibration needs both matches and non-matches; give clean data that has both")
    weight = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    penalty = l2 * float(torch.minimum(weight[labels].sum(), weight[~labels].sum()))
    model = LogisticRegression(
        C=1 / penalty if penalty else float("inf"), solver="newton-cholesky", tol=_TOLERANCE, max_iter=100
    )
    with threadpool_limits(limits=1):  # tall and thin: on busy cores more threads wait for each other, up to four times
        model.fit(inputs.double().numpy(), labels.numpy(), sample_weight=weight.numpy())
    return torch.cat([torch.from_numpy(model.coef_[0]), torch.from_numpy(model.intercept_)])


def calibrated(
    log_odds: Doubles, labels: NDArray[np.bool_], groups: NDArray[np.int64], folds: int = 5
) -> Doubles | None:
    """What a judge's scores are worth as probabilities, by people's answers about other pictures.

    A logistic regression on the score (Platt, 1999), not a step function (isotonic): answers are some hundreds, and
    below about a thousand the steps follow single answers (Niculescu-Mizil and Caruana, Predicting Good Probabilities
    With Supervised Learning, ICML 2005); and it keeps the order of the judge. Each answer is judged by a fit that saw
    none about its picture.

    Args:
        log_odds: of the judge, or any score that rises with the probability [A].
        labels: what people said [A].
        groups: number of each answer's picture [A].
        folds: parts that the pictures are dealt into, those with matches first.

    Returns:
        Probabilities [A]; None while the answers about other pictures have no match, or nothing else.
    """
    pictures, number = np.unique(groups, return_inverse=True)
    matching = np.bincount(number, weights=labels, minlength=len(pictures)) > 0
    dealt = np.empty(len(pictures), np.int64)
    dealt[np.argsort(~matching, kind="stable")] = np.arange(len(pictures)) % folds
    fold = dealt[number]  # [A]
    spread = float(log_odds.std())
    inputs = torch.from_numpy((log_odds - log_odds.mean()) / (spread or 1.0))[:, None]
    said, found = torch.from_numpy(labels), np.empty(len(labels))
    for part in np.unique(fold):
        held = torch.from_numpy(fold == part)
        if bool(said[~held].all()) or not bool(said[~held].any()):
            return None
        weight, constant = fit_logistic(inputs[~held], said[~held])
        found[held.numpy()] = (weight * inputs[held, 0] + constant).sigmoid().numpy()
    return found


@dataclass(frozen=True)
class DualCalibration:
    """probability = sigmoid(scale * cosine + bias).

    Attributes:
        scale: weight of the cosine.
        bias: constant.
        prior: share of matches among the candidates that the probability is meant for.
        fingerprint: of the dual encoder it was fitted for.
        matches: number of matches it was fitted on.
        non_matches: number of non-matches.
    """

    scale: float
    bias: float
    prior: float
    fingerprint: str
    matches: int
    non_matches: int

    def probabilities(self, cosines: Tensor) -> Tensor:
        """Match probabilities of cosines, of the same shape."""
        return (self.scale * cosines + self.bias).sigmoid()

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: Path, fingerprint: str) -> "DualCalibration":
        """Read what :meth:`save` wrote.

        Args:
            file: the JSON file.
            fingerprint: of the dual encoder in use.

        Raises:
            ConfigError: there is no such file: a similarity is no probability, and no default would be right.
            CheckpointError: it cannot be read, or was fitted for another encoder.
        """
        if not file.is_file():
            raise ConfigError(f"{file} is missing; fit it (fit_dual_calibration), or give ecm.judge.calibration")
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{file} is not a calibration ({error}); fit it again") from error
        if found.fingerprint != fingerprint:
            raise CheckpointError(f"{file} was fitted for another encoder or preprocessing; fit it again")
        return found


def fit_dual_calibration(
    encoder: FeatureReader,
    table: PairTable,
    *,
    hard: int = 4,
    random: int = 4,
    prior: float = 0.5,
    seed: int = 0,
) -> DualCalibration:
    """Fit on a clean table: its own pairs against captions that are known not to be true of an image.

    Half of the non-matches are the captions nearest to an image, since those are what a judge is asked about.

    Args:
        encoder: opened on this table.
        table: clean pairs with truth (``names`` or ``group``); the first caption of each row is taken.
        hard: nearest false captions of each image.
        random: random false captions of each image.
        prior: share of matches among the candidates to be judged; an ITM head is trained on a third to a half.
        seed: of the random ones.

    Raises:
        DataError: the table states no truth, or has no false pair.
        ConfigError: numbers out of range.
    """
    if hard < 0 or random < 0 or hard + random < 1 or not 0 < prior < 1:
        raise ConfigError("a calibration needs hard + random of at least 1, and a prior between 0 and 1")
    truth = Truth.from_table(table)
    if truth is None:
        raise DataError(f"{table.name} states no truth (names or group); a calibration needs clean data that does")
    captions = [row[0] for row in table.rows["captions"]]
    keys = torch.tensor([table.caption_key(caption) for caption in captions])
    rows = torch.arange(len(table))
    images = torch.cat([encoder.image_features(part).cpu() for part in rows.split(_BATCH)])
    texts = torch.cat([encoder.text_features(captions[i : i + _BATCH]).cpu() for i in range(0, len(captions), _BATCH)])
    generator = torch.Generator().manual_seed(seed)
    positives = paired_similarities(images, texts)  # [N]
    negatives = torch.cat(
        [
            _false_cosines(images[part], texts, ~_true(truth, part, keys), hard, random, generator)
            for part in rows.split(_ROWS)
        ]
    )
    cosines = torch.cat([positives, negatives])
    labels = torch.arange(len(cosines)) < len(positives)
    if not len(negatives):
        raise DataError(f"every caption of {table.name} is true of every image; a calibration needs false pairs too")
    weights = torch.where(labels, prior / len(positives), (1 - prior) / len(negatives))
    spread = cosines.std().clamp(min=1e-6)  # the penalty expects inputs of scale 1
    weight, constant = fit_logistic(((cosines - cosines.mean()) / spread)[:, None], labels, weights).tolist()
    scale = weight / float(spread)
    bias = constant - scale * float(cosines.mean())
    return DualCalibration(scale, bias, prior, encoder.fingerprint, len(positives), len(negatives))


def _true(truth: Truth, rows: Tensor, keys: Tensor) -> Tensor:
    """Which captions are true of the images of some rows [R, N]."""
    size = (len(rows), len(keys))
    return truth.matches(rows[:, None].expand(size).flatten(), keys[None, :].expand(size).flatten()).view(size)


def _false_cosines(
    images: Tensor, texts: Tensor, false: Tensor, hard: int, random: int, generator: torch.Generator
) -> Tensor:
    """Cosines of some images with their nearest and with random false captions [<= R * (hard + random)]."""
    cosines = similarities(images, texts)  # [R, N]
    nearest = cosines.masked_fill(~false, -torch.inf).topk(min(hard, len(texts)), dim=1).values
    lots = torch.rand(cosines.shape, generator=generator).masked_fill(~false, -1.0).topk(min(random, len(texts)), dim=1)
    drawn = cosines.gather(1, lots.indices).masked_fill(lots.values < 0, -torch.inf)
    found = torch.cat([nearest, drawn], dim=1).flatten()
    return found[found.isfinite()]
