"""Zero-shot retrieval: captions for pictures and pictures for captions that the model was not trained on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from truepair.data.judgements import JudgedCaptions
from truepair.data.pairs import PairCollator, PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.errors import ConfigError
from truepair.evaluation.coco import CocoReport
from truepair.evaluation.metrics import RetrievalMetrics, RetrievalProtocol, evaluate_retrieval
from truepair.evaluation.reranking import (
    ITM_ALONE,
    Candidates,
    Combination,
    RerankedScores,
    choose_combination,
    find_candidates,
    score_candidates,
)
from truepair.evaluation.scores import FeatureScores, ScoreSource
from truepair.evaluation.truth import Truth
from truepair.models.dual.base import DualEncoder
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.fusion.gallery import GalleryMatcher, encode_captions, encode_images


class ImageSource:
    """Batches of a table's pictures in row order, unaugmented.

    Args:
        table: the pictures.
        collator: makes batches of samples.
        transform: evaluation transform; not needed with a cache.
        cache: states of the table's pictures, row by row.
        batch_size: pictures a batch.

    Raises:
        ConfigError: neither a transform nor a cache is given.
    """

    def __init__(
        self,
        table: PairTable,
        collator: PairCollator,
        *,
        transform: ImageTransform | None = None,
        cache: ImageStates | None = None,
        batch_size: int = 64,
    ) -> None:
        if transform is None and cache is None:
            raise ConfigError("pictures need a transform to read them with, or a cache of their states")
        self.table = table
        self.collator = collator
        self.transform = transform
        self.cache = cache
        self.batch_size = batch_size

    @property
    def are_states(self) -> bool:
        """Whether the batches are states [B, N, W] rather than pixels [B, 3, H, W]."""
        return self.cache is not None

    def batches(self) -> Iterator[Tensor]:
        """Yield the pictures, batch by batch, as states [B, N, W] or pixels [B, 3, H, W].

        Raises:
            BadImageError: a picture cannot be read; a substitute would make the figures wrong.
        """
        if self.cache is not None:
            for start in range(0, len(self.table), self.batch_size):
                yield self.cache[start : start + self.batch_size]
            return
        dataset = PairDataset(self.table, self.transform, captions="first", substitutes=0)
        for batch in DataLoader(dataset, batch_size=self.batch_size, collate_fn=self.collator):
            yield batch.pixel_values


@dataclass(frozen=True)
class RetrievalResult:
    """Figures of one model on one set.

    Attributes:
        ways: metrics by way of ranking: "similarity" alone, the top candidates re-ranked by "ITM" alone, and by
            "similarity + ITM" together, as far as they were measured.
        combination: the weights of the last; None when they were not combined.
        images: how many pictures were asked for.
        captions: how many distinct caption texts.
        coco: the same ways under the truths of COCO, CxC and ECCV Caption; empty where they were not asked for.
        rankings: the scores behind each of ``ways``, for examples; no part of the figures.
    """

    ways: dict[str, RetrievalMetrics]
    combination: Combination | None
    images: int
    captions: int
    coco: dict[str, CocoReport] = field(default_factory=dict)
    rankings: dict[str, ScoreSource] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain nested dictionaries, ready for JSON."""
        figures = asdict(replace(self, rankings={}))
        del figures["rankings"]
        return figures

    @property
    def best(self) -> RetrievalMetrics:
        """Metrics of the last way measured, which uses the most of the model."""
        return list(self.ways.values())[-1]


class RetrievalTask:
    """Retrieval on the pictures of a table, against every distinct caption text known of any of them.

    Args:
        collator: the tokenization the model was trained with.
        images: the pictures; their table has their own captions and, in ``names`` or ``group`` columns, the known
            truth.
        protocol: how to measure.
        judged: crossed matches that people found, which count as well.
        cache: makes or opens the frozen text encoder's states of the candidates; None to run the encoder each time.

    Attributes:
        known: all that is known of pictures and candidates, near-matches included.
        truth: what the figures go by: without near-matches, unless the protocol leaves them out.
    """

    def __init__(
        self,
        collator: PairCollator,
        images: ImageSource,
        protocol: RetrievalProtocol | None = None,
        judged: JudgedCaptions | None = None,
        cache: Callable[[Sequence[str]], CaptionStates | None] | None = None,
    ) -> None:
        self.collator = collator
        self.images = images
        self.protocol = protocol or RetrievalProtocol()
        self.known = build_truth(images.table, judged)
        self.truth = self.known if self.protocol.leave_out_families else self.known.without_ignored()
        self.caption_states = None if cache is None else cache(self.truth.texts)

    def figures(self, model: DualEncoder) -> dict[str, float]:
        """Quick figures for the log of a run, similarity alone: R@1 and mAP@R both ways, truth-aware and naive."""
        judge = self.encode(model)
        metrics = evaluate_retrieval(similarity_of(judge), self.truth, resamples=0)
        return {
            "i2t_r@1": metrics.i2t.recall_at_1.value,
            "t2i_r@1": metrics.t2i.recall_at_1.value,
            "i2t_map@r": metrics.i2t.map_at_r.value,
            "t2i_map@r": metrics.t2i.map_at_r.value,
            "naive_i2t_r@1": metrics.naive_i2t.recall_at_1.value,
            "naive_t2i_r@1": metrics.naive_t2i.recall_at_1.value,
        }

    def choose_combination(self, model: DualEncoder) -> Combination | None:
        """Choose the weights of similarity and ITM on this table; call it on validation pictures only."""
        if not self._reranks(model):
            return None
        judge = self.encode(model)
        candidates, log_odds = self._judged(judge)
        temperature = float(model.temperature.detach())
        return choose_combination(similarity_of(judge), self.truth, candidates, log_odds, temperature=temperature)[0]

    def evaluate(self, model: DualEncoder, combination: Combination | None = None) -> RetrievalResult:
        """Measure every way of ranking.

        Args:
            model: what to evaluate; put into evaluation mode.
            combination: weights chosen on validation pictures; without, similarity and ITM are not combined.
        """
        rankings = self.rankings(self.encode(model), combination)
        metrics = {way: evaluate_retrieval(scores, self.truth) for way, scores in rankings.items()}
        return RetrievalResult(metrics, combination, self.truth.images, self.truth.captions, rankings=rankings)

    def rankings(self, judge: GalleryMatcher, combination: Combination | None = None) -> dict[str, ScoreSource]:
        """Scores of every way of ranking: "similarity", and with re-ranking "ITM" and "similarity + ITM"."""
        similarity = similarity_of(judge)
        ways: dict[str, ScoreSource] = {"similarity": similarity}
        if self._reranks(judge.model):
            candidates, log_odds = self._judged(judge)
            ways["ITM"] = RerankedScores(similarity, candidates, ITM_ALONE.apply(candidates.pairs, log_odds))
            if combination is not None:
                scores = combination.apply(candidates.pairs, log_odds)
                ways["similarity + ITM"] = RerankedScores(similarity, candidates, scores)
        return ways

    def encode(self, model: DualEncoder) -> GalleryMatcher:
        """Encode the table's pictures and captions."""
        model.eval()
        images = encode_images(model, self.images.batches(), are_states=self.images.are_states)
        captions = encode_captions(model, self.truth.texts, self.collator.encode, cache=self.caption_states)
        return GalleryMatcher(model, images, captions)

    def _reranks(self, model: DualEncoder) -> bool:
        """ITM that was not trained does not rank."""
        return self.protocol.rerank > 0 and model.itm_trained

    def _judged(self, judge: GalleryMatcher) -> tuple[Candidates, Tensor]:
        """The candidates that ITM reads, and its log-odds [P]."""
        truth = self.truth
        candidates = find_candidates(similarity_of(judge), truth.images, truth.captions, self.protocol.rerank)
        return candidates, score_candidates(candidates.pairs, judge)


def build_truth(table: PairTable, judged: JudgedCaptions | None = None) -> Truth:
    """What is known of a table's pictures and its distinct captions, the candidates; near-matches are ignored.

    Args:
        table: the pictures, their captions, and what it states of the truth.
        judged: crossed matches that people found; they take the place of the table's ``names``.
    """
    return Truth.of_table(table) if judged is None else Truth.of_table(table, judged.names, judged.near)


def similarity_of(judge: GalleryMatcher) -> FeatureScores:
    """Cosine similarity of all pictures and captions."""
    return FeatureScores(judge.images.features, judge.captions.features)
