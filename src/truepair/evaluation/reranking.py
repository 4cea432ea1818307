"""Re-ranking: which pairs are read, and how their scores combine with similarity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.evaluation.metrics import evaluate_retrieval
from truepair.evaluation.scores import CaptionScores, ScoreSource
from truepair.evaluation.truth import Truth
from truepair.relations.pairs import PairSet

PairScorer = Callable[[Tensor, Tensor], Tensor]
"""Scores of pairs: (image numbers [P], caption numbers [P]) -> [P]. Images come sorted: equal ones stand together."""


class Candidates(NamedTuple):
    """The pairs that similarity search proposes in either direction.

    Attributes:
        pairs: each once, sorted by image, then caption; values are the search's own scores [I, T].
        for_image: whether the caption is among the image's top k, bool [P].
        for_caption: whether the image is among the caption's top k, bool [P].
    """

    pairs: PairSet
    for_image: Tensor
    for_caption: Tensor


def find_candidates(
    similarity: ScoreSource, images: int, captions: int, k: int, *, listed: Tensor | None = None, block_size: int = 512
) -> Candidates:
    """Top-k search in both directions.

    Among equal similarities at the k-th place the choice is arbitrary but the same in every run.

    Args:
        similarity: scores of all pairs, in slices.
        images: number of images I.
        captions: number of captions T.
        k: candidates a query; a gallery smaller than k is taken whole.
        listed: the texts of a gallery that lists some texts more than once, or not all, as caption numbers, int64 [C]:
            an image's k places are then taken by these. A text that has one of them is a candidate wherever it stands.
        block_size: rows of scores read at once.

    Raises:
        ConfigError: if k is not positive.
    """
    if k < 1:
        raise ConfigError(f"re-ranking needs at least one candidate a query, got k = {k}")
    if listed is None:
        by_image = _top_k(similarity.image_rows, (images, captions), k, block_size)
    else:
        places = _top_k(CaptionScores(similarity, listed).image_rows, (images, len(listed)), k, block_size)
        by_image = PairSet(places.rows, listed[places.columns], places.values, (images, captions)).distinct()
    by_caption = _top_k(similarity.caption_rows, (captions, images), k, block_size).T
    pairs = PairSet.union(by_caption, by_image)
    return Candidates(pairs, by_image.contains(pairs), by_caption.contains(pairs))


def _top_k(rows: Callable[[int, int], Tensor], shape: tuple[int, int], k: int, block_size: int) -> PairSet:
    """Each row's k best columns, with their scores [P = rows * k]."""
    count, k = shape[0], min(k, shape[1])
    tops = [
        rows(start, min(start + block_size, count)).detach().topk(k, dim=1) for start in range(0, count, block_size)
    ]
    values, columns = (torch.cat([part.flatten().cpu() for part in parts]) for parts in zip(*tops, strict=True))
    return PairSet(torch.arange(count).repeat_interleave(k), columns, values, shape)


def score_candidates(pairs: PairSet, score_pairs: PairScorer, *, chunk_size: int = 1024) -> Tensor:
    """Score each candidate pair once, image by image.

    A chunk ends between two images unless one image alone has more than ``chunk_size`` candidates, so the scorer can
    compute each image's keys and values once.

    Args:
        pairs: P candidates, sorted by image.
        score_pairs: the judge. It should return log-odds rather than probabilities, which round to 1 for sure
            pairs, and so tie.
        chunk_size: pairs passed at once.

    Returns:
        Scores [P] on the CPU.

    Raises:
        DataError: if the judge returns the wrong number of scores, or NaN.
    """
    scores = []
    start = 0
    while start < len(pairs):
        stop = _chunk_end(pairs.rows, start, chunk_size)
        part = score_pairs(pairs.rows[start:stop], pairs.columns[start:stop]).detach().cpu()
        if part.shape != (stop - start,):
            raise DataError(f"the pair scorer returned {tuple(part.shape)} scores for {stop - start} pairs")
        if part.isnan().any():
            raise DataError(f"the pair scorer returned NaN for pairs {start} to {stop - 1}; check the model's weights")
        scores.append(part)
        start = stop
    return torch.cat(scores) if scores else torch.empty(0)


def _chunk_end(images: Tensor, start: int, chunk_size: int) -> int:
    """End of the chunk that begins at ``start``: the last border between images that keeps it small enough."""
    stop = start + chunk_size
    if stop >= len(images):
        return len(images)
    border = int(torch.searchsorted(images, images[stop]))
    return border if border > start else stop


@dataclass(frozen=True)
class Combination:
    """How similarity and ITM are added up: ``similarity_weight * similarity + itm_weight * log_odds``.

    Attributes:
        similarity_weight: usually 1 / temperature, so that similarity counts as the contrastive logit; 0 for ITM alone.
        itm_weight: lambda; 0 for similarity alone.
    """

    similarity_weight: float
    itm_weight: float

    def apply(self, pairs: PairSet, log_odds: Tensor) -> Tensor:
        """Combined scores of P candidate pairs, whose values are similarities, with their log-odds [P]; float64 [P]."""
        return self.similarity_weight * pairs.values.double() + self.itm_weight * log_odds.double()


ITM_ALONE = Combination(similarity_weight=0.0, itm_weight=1.0)


class RerankedScores:
    """Scores in which each query's candidates come first, ordered by the judge; the rest keep their similarity order.

    In each direction only that direction's own top k move, as is usual, though pairs wanted by both are judged once.
    Candidates are raised by whole numbers above the row's highest similarity, so neither order suffers from rounding;
    equal scores stay equal. Rows are float64 and mean an order, nothing else.
    """

    def __init__(self, similarity: ScoreSource, candidates: Candidates, scores: Tensor) -> None:
        """Lay the judge's scores over the similarity.

        Args:
            similarity: scores of all pairs, in slices.
            candidates: the judged pairs.
            scores: [P], what the judge (or a ``Combination``) says of each.

        Raises:
            ConfigError: if the number of scores is not that of the pairs.
        """
        pairs = candidates.pairs
        if scores.shape != (len(pairs),):
            raise ConfigError(f"got {tuple(scores.shape)} scores for {len(pairs)} candidate pairs")
        self._similarity = similarity
        # The place of each score counted from the worst, from 1; equal scores share one.
        placed = pairs.with_values(scores.unique(return_inverse=True)[1].double() + 1)
        self._by_image = _Overlay.build(placed.where(candidates.for_image))
        self._by_caption = _Overlay.build(placed.where(candidates.for_caption).T)

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Re-ranked scores of some images against all captions, float64 [stop - start, T]."""
        return self._by_image.lay_over(self._similarity.image_rows(start, stop), start)

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Re-ranked scores of some captions against all images, float64 [stop - start, I]."""
        return self._by_caption.lay_over(self._similarity.caption_rows(start, stop), start)


@dataclass(frozen=True)
class _Overlay:
    """Places of candidates in one direction, sorted by row."""

    rows: Tensor  # [M]
    columns: Tensor  # [M]
    places: Tensor  # [M]

    @classmethod
    def build(cls, placed: PairSet) -> "_Overlay":
        """Sort the candidates by row."""
        placed = placed.where(placed.rows.argsort(stable=True))
        return cls(placed.rows, placed.columns, placed.values)

    def lay_over(self, block: Tensor, start: int) -> Tensor:
        """Raise the candidates of rows ``start..`` above the rest of their row; returns a float64 copy of ``block``."""
        block = block.detach().cpu().double().clone()
        first, last = torch.searchsorted(self.rows, torch.tensor([start, start + len(block)])).tolist()
        row = self.rows[first:last] - start
        ceiling = block.amax(dim=1).clamp_min(0.0)
        block[row, self.columns[first:last]] = ceiling[row] + self.places[first:last]
        return block


@dataclass(frozen=True)
class Trial:
    """One combination and its figures on the validation scores, both between 0 and 1.

    Attributes:
        combination: what was tried.
        recall_at_1: mean of both directions, any true match counts.
        map_at_r: mean of both directions.
    """

    combination: Combination
    recall_at_1: float
    map_at_r: float


def choose_combination(
    similarity: ScoreSource,
    truth: Truth,
    candidates: Candidates,
    log_odds: Tensor,
    *,
    temperature: float,
    itm_weights: Sequence[float] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
) -> tuple[Combination, list[Trial]]:
    """Pick lambda on validation scores: never pass test scores here.

    Each weight is tried with similarity / temperature, and ITM alone is tried last. The best mean R@1 wins, then the
    best mean mAP@R, then the one tried first, which leans on similarity the most.

    Args:
        similarity: validation scores of all pairs, in slices.
        truth: of the validation pairs.
        candidates: the judged validation pairs.
        log_odds: [P], what the ITM head says of each.
        temperature: of the contrastive loss.
        itm_weights: values of lambda to try; 0 is similarity alone.

    Returns:
        The chosen combination and all trials, in the order tried.

    Raises:
        ConfigError: if the temperature is not positive.
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be positive to combine similarity with ITM, got {temperature}")
    tried = [*(Combination(1 / temperature, weight) for weight in itm_weights), ITM_ALONE]
    trials = []
    for combination in tried:
        scores = RerankedScores(similarity, candidates, combination.apply(candidates.pairs, log_odds))
        metrics = evaluate_retrieval(scores, truth, resamples=0)
        trials.append(Trial(combination, metrics.mean_recall_at_1, metrics.mean_map_at_r))
    best = max(trials, key=lambda trial: (trial.recall_at_1, trial.map_at_r))  # max keeps the first of equals
    return best.combination, trials
