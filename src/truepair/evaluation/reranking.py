"""Re-ranking of similarity search by a slower judge of pairs, such as an ITM head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.evaluation.candidates import CandidatePairs
from truepair.evaluation.metrics import evaluate_retrieval
from truepair.evaluation.scores import ScoreSource
from truepair.evaluation.truth import RetrievalTruth


@dataclass(frozen=True)
class Combination:
    """How similarity and ITM are added up: ``similarity_weight * similarity + itm_weight * log_odds``.

    Attributes:
        similarity_weight: usually 1 / temperature, so that similarity counts as the contrastive logit; 0 for ITM alone.
        itm_weight: lambda; 0 for similarity alone.
    """

    similarity_weight: float
    itm_weight: float

    def apply(self, candidates: CandidatePairs, log_odds: Tensor) -> Tensor:
        """Combined scores of the candidate pairs, float64 [P]."""
        return self.similarity_weight * candidates.similarity.double() + self.itm_weight * log_odds.double()


ITM_ALONE = Combination(similarity_weight=0.0, itm_weight=1.0)


class RerankedScores:
    """Scores in which each query's candidates come first, ordered by the judge; the rest keep their similarity order.

    In each direction only that direction's own top k move, as is usual, though pairs wanted by both are judged once.
    Candidates are raised by whole numbers above the row's highest similarity, so neither order suffers from rounding;
    equal scores stay equal. Rows are float64 and mean an order, nothing else.
    """

    def __init__(self, similarity: ScoreSource, candidates: CandidatePairs, scores: Tensor) -> None:
        """Lay the judge's scores over the similarity.

        Args:
            similarity: scores of all pairs, in slices.
            candidates: the judged pairs.
            scores: [P], what the judge (or a ``Combination``) says of each.

        Raises:
            ConfigError: if the number of scores is not that of the pairs.
        """
        if scores.shape != (len(candidates),):
            raise ConfigError(f"got {tuple(scores.shape)} scores for {len(candidates)} candidate pairs")
        self._similarity = similarity
        place = scores.unique(return_inverse=True)[1] + 1  # [P], dense rank from the worst, from 1
        wanted = candidates.for_image
        self._by_image = _Overlay.build(candidates.images[wanted], candidates.captions[wanted], place[wanted])
        wanted = candidates.for_caption
        self._by_caption = _Overlay.build(candidates.captions[wanted], candidates.images[wanted], place[wanted])

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
    def build(cls, rows: Tensor, columns: Tensor, places: Tensor) -> "_Overlay":
        """Sort the candidates by row."""
        order = rows.argsort(stable=True)
        return cls(rows[order], columns[order], places[order])

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
    truth: RetrievalTruth,
    candidates: CandidatePairs,
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
        scores = RerankedScores(similarity, candidates, combination.apply(candidates, log_odds))
        metrics = evaluate_retrieval(scores, truth, resamples=0)
        trials.append(Trial(combination, metrics.mean_recall_at_1, metrics.mean_map_at_r))
    best = max(trials, key=lambda trial: (trial.recall_at_1, trial.map_at_r))  # max keeps the first of equals
    return best.combination, trials
