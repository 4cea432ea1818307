"""Zero-shot retrieval: captions for pictures and pictures for captions that the model was not trained on."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from truepair.data.collate import PairCollator
from truepair.data.table import PairTable
from truepair.evaluation.candidates import CandidatePairs, find_candidates, score_candidates
from truepair.evaluation.gallery import CaptionGallery
from truepair.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from truepair.evaluation.protocol import RetrievalProtocol
from truepair.evaluation.reranking import ITM_ALONE, Combination, RerankedScores, choose_combination
from truepair.evaluation.scores import FeatureScores
from truepair.models.albef import AlbefModel
from truepair.models.gallery import PairJudge, encode_captions, encode_images
from truepair.tasks.images import ImageSource


@dataclass(frozen=True)
class RetrievalResult:
    """Figures of one model on one set, by way of ranking.

    Attributes:
        similarity: features alone.
        itm: the top candidates re-ranked by the ITM head alone; None when nothing was re-ranked.
        combined: re-ranked by similarity and ITM together; None when nothing was re-ranked.
        combination: the weights of ``combined``.
        images: how many pictures were asked for.
        captions: how many distinct caption texts.
    """

    similarity: RetrievalMetrics
    itm: RetrievalMetrics | None
    combined: RetrievalMetrics | None
    combination: Combination | None
    images: int
    captions: int

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return asdict(self)

    def ways(self) -> dict[str, RetrievalMetrics]:
        """The ways of ranking that were measured, by name."""
        named = {"similarity": self.similarity, "ITM": self.itm, "similarity + ITM": self.combined}
        return {name: metrics for name, metrics in named.items() if metrics is not None}


class RetrievalTask:
    """Retrieval on the pictures of a table, against every distinct caption text known of any of them.

    Args:
        collator: the tokenization the model was trained with.
        images: the pictures; their table has their own captions and, in ``names`` or ``group`` columns, the known
            truth.
        protocol: how to measure.
    """

    def __init__(
        self,
        collator: PairCollator,
        images: ImageSource,
        protocol: RetrievalProtocol | None = None,
    ) -> None:
        self.collator = collator
        self.images = images
        self.protocol = protocol or RetrievalProtocol()
        self.gallery = build_gallery(images.table, leave_out_families=self.protocol.leave_out_families)

    def figures(self, model: AlbefModel) -> dict[str, float]:
        """Quick figures for the log of a run, similarity alone: R@1 and mAP@R both ways, truth-aware and naive."""
        judge = self.encode(model)
        metrics = evaluate_retrieval(_similarity(judge), self.gallery.truth, resamples=0)
        return {
            "i2t_r@1": metrics.i2t.recall_at_1.value,
            "t2i_r@1": metrics.t2i.recall_at_1.value,
            "i2t_map@r": metrics.i2t.map_at_r.value,
            "t2i_map@r": metrics.t2i.map_at_r.value,
            "naive_i2t_r@1": metrics.naive_i2t.recall_at_1.value,
            "naive_t2i_r@1": metrics.naive_t2i.recall_at_1.value,
        }

    def choose_combination(self, model: AlbefModel) -> Combination | None:
        """Choose the weights of similarity and ITM on this table; call it on validation pictures only."""
        if not self.protocol.rerank:
            return None
        judge = self.encode(model)
        candidates, log_odds = self._judged(judge)
        temperature = float(model.temperature.detach())
        return choose_combination(
            _similarity(judge), self.gallery.truth, candidates, log_odds, temperature=temperature
        )[0]

    def evaluate(self, model: AlbefModel, combination: Combination | None = None) -> RetrievalResult:
        """Measure every way of ranking.

        Args:
            model: what to evaluate; put into evaluation mode.
            combination: weights chosen on validation pictures; without, similarity and ITM are not combined.
        """
        judge = self.encode(model)
        similarity = _similarity(judge)
        truth = self.gallery.truth
        itm = combined = None
        if self.protocol.rerank:
            candidates, log_odds = self._judged(judge)
            scores = {way: way.apply(candidates, log_odds) for way in (ITM_ALONE, combination) if way is not None}
            measured = {
                way: evaluate_retrieval(RerankedScores(similarity, candidates, score), truth)
                for way, score in scores.items()
            }
            itm = measured[ITM_ALONE]
            combined = measured[combination] if combination is not None else None
        return RetrievalResult(
            evaluate_retrieval(similarity, truth), itm, combined, combination, truth.images, truth.captions
        )

    def encode(self, model: AlbefModel) -> PairJudge:
        """Encode the table's pictures and captions."""
        model.eval()
        images = encode_images(model, self.images.batches(), are_states=self.images.are_states)
        return PairJudge(model, images, encode_captions(model, self.gallery.texts, self.collator.encode))

    def _judged(self, judge: PairJudge) -> tuple[CandidatePairs, Tensor]:
        truth = self.gallery.truth
        candidates = find_candidates(_similarity(judge), truth.images, truth.captions, self.protocol.rerank)
        return candidates, score_candidates(candidates, judge)


def build_gallery(table: PairTable, *, leave_out_families: bool = False) -> CaptionGallery:
    """Candidate captions of a table's pictures, with what is known to be true of each."""
    columns = set(table.rows.column_names)

    def column(name: str) -> list[Any] | None:
        return list(table.rows[name]) if name in columns else None

    families = column("family") if leave_out_families else None
    return CaptionGallery.from_names(list(table.rows["captions"]), column("names"), column("group"), families)


def _similarity(judge: PairJudge) -> FeatureScores:
    return FeatureScores(judge.images.features, judge.captions.features)
