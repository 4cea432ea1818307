"""COCO 5K, COCO 1K, CxC and ECCV Caption: retrieval on the Karpathy test split of COCO under four notions of truth.

The truths come with the ``eccv-caption`` package (Chun et al., ECCV Caption, ECCV 2022; it carries the judgements of
Crisscrossed Captions, Parekh et al. 2021, too): ``pip install truepair[eccv]``. Figures are computed here, with this
package's ranks, ties and intervals; the tests compare them with those of ``eccv_caption.Metrics``. One thing differs:
two of the 22,550 right captions of ECCV Caption are not in the test split (it keeps five captions of each image), so
nobody can retrieve them; here they do not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.evaluation.metrics import DirectionMetrics, rank_queries, summarise
from truepair.evaluation.scores import ScoreSource, SubsetScores, as_source
from truepair.evaluation.truth import MatchLists, QuerySet, twins_of

Answers = Mapping[int, Sequence[int]]
"""From the COCO id of a query to the ids of all its right candidates."""

_FOLDS = 5


@dataclass(frozen=True)
class CocoTruth:
    """One notion of what is true on the test split. The two directions were judged apart: neither follows the other.

    Attributes:
        i2t: image id to caption ids.
        t2i: caption id to image ids.
    """

    i2t: Answers
    t2i: Answers


@dataclass(frozen=True)
class CocoTruths:
    """All of them.

    Attributes:
        coco: each image's own five captions.
        cxc: with the crossed matches of Crisscrossed Captions.
        eccv: with those of ECCV Caption, for the 1,261 images and 1,332 captions that were judged.
        folds: caption ids of each of the five folds of COCO 1K.
    """

    coco: CocoTruth
    cxc: CocoTruth
    eccv: CocoTruth
    folds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CocoMetrics:
    """Both directions under one notion of truth.

    Attributes:
        i2t: image to text.
        t2i: text to image.
    """

    i2t: DirectionMetrics
    t2i: DirectionMetrics


@dataclass(frozen=True)
class CocoReport:
    """All figures of one model on the 5,000 test images.

    Attributes:
        coco_5k: own captions only.
        cxc: any match known to Crisscrossed Captions.
        eccv: any match known to ECCV Caption; mAP@R and R-Precision are meant to be read here.
        folds_1k: own captions only, among the 1,000 images of each fold.
    """

    coco_5k: CocoMetrics
    cxc: CocoMetrics
    eccv: CocoMetrics
    folds_1k: tuple[CocoMetrics, ...]

    def recall_1k(self, depth: int) -> tuple[float, float]:
        """COCO 1K R@K (K = 1, 5 or 10), image to text and text to image: the mean of the folds."""
        name = f"recall_at_{depth}"
        totals = [
            sum(getattr(getattr(fold, way), name).value for fold in self.folds_1k) / len(self.folds_1k)
            for way in ("i2t", "t2i")
        ]
        return totals[0], totals[1]


def load_coco_truths() -> CocoTruths:
    """The truths, from the ``eccv-caption`` package.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from eccv_caption import Metrics
    except ImportError:
        raise ConfigError("ECCV Caption and CxC need the eccv-caption package: pip install 'truepair[eccv]'") from None
    package: Any = Metrics()
    captions = [int(caption) for caption in package.coco_ids]
    size = len(captions) // _FOLDS
    coco = CocoTruth(**package.coco_gts)
    return CocoTruths(
        coco=coco,
        cxc=_within(package.cxc_gts, coco),
        eccv=_within(package.eccv_gts, coco),
        folds=tuple(tuple(captions[size * fold : size * (fold + 1)]) for fold in range(_FOLDS)),
    )


class CocoGallery:
    """The test split as a model scored it: which row and which column is which COCO id.

    Args:
        image_ids: COCO image id of each row of the scores.
        caption_ids: COCO annotation id of each column.
        texts: captions that the model reads as the same text share a number, int64 [columns]; any order of them counts
            as equally likely. By default each has a text of its own.

    Raises:
        DataError: an id twice.
    """

    def __init__(self, image_ids: Sequence[int], caption_ids: Sequence[int], texts: Tensor | None = None) -> None:
        self.rows = {image: row for row, image in enumerate(image_ids)}
        self.columns = {caption: column for column, caption in enumerate(caption_ids)}
        if len(self.rows) < len(image_ids) or len(self.columns) < len(caption_ids):
            raise DataError("an image id or a caption id occurs twice in the scored gallery; score each once")
        self.texts = torch.arange(len(caption_ids)) if texts is None else texts

    def evaluate(
        self, scores: ScoreSource | Tensor, truths: CocoTruths, *, resamples: int = 1000, seed: int = 0
    ) -> CocoReport:
        """All figures.

        Args:
            scores: matrix [images, captions] or a source of its slices; re-ranked scores will do.
            truths: from `load_coco_truths`.
            resamples: bootstrap rounds of each interval; 0 gives none.
            seed: of the bootstrap.

        Raises:
            DataError: an image or a caption of the truth was not scored, or a score is NaN.
        """
        source, bootstrap = as_source(scores), (resamples, seed)
        return CocoReport(
            coco_5k=self._measure(source, truths.coco, bootstrap),
            cxc=self._measure(source, truths.cxc, bootstrap),
            eccv=self._measure(source, truths.eccv, bootstrap),
            folds_1k=tuple(self._fold(source, truths.coco, captions, bootstrap) for captions in truths.folds),
        )

    def _fold(
        self, source: ScoreSource, truth: CocoTruth, captions: Sequence[int], bootstrap: tuple[int, int]
    ) -> CocoMetrics:
        """The own captions of a fold among themselves."""
        t2i = {caption: truth.t2i[caption] for caption in captions}
        images = {image for answers in t2i.values() for image in answers}
        rows = _sorted_places(images, self.rows)
        columns = _sorted_places(captions, self.columns)
        chosen = torch.tensor(list(columns.values()))
        part = CocoGallery(list(rows), list(columns), self.texts[chosen])
        cut = SubsetScores(source, torch.tensor(list(rows.values())), chosen)
        i2t = {image: truth.i2t[image] for image in images}
        return part._measure(cut, CocoTruth(i2t, t2i), bootstrap)

    def _measure(self, source: ScoreSource, truth: CocoTruth, bootstrap: tuple[int, int]) -> CocoMetrics:
        """Both directions over the whole gallery."""
        i2t = _query_set(truth.i2t, self.rows, self.columns)
        i2t = replace(i2t, twins=twins_of(i2t.answers, self.texts))
        t2i = _query_set(truth.t2i, self.columns, self.rows)
        return CocoMetrics(
            i2t=self._direction(source.image_rows, i2t, self.rows, self.columns, bootstrap),
            t2i=self._direction(source.caption_rows, t2i, self.columns, self.rows, bootstrap),
        )

    @staticmethod
    def _direction(
        rows: Any, asked: QuerySet, queries: Mapping[int, int], candidates: Mapping[int, int], bootstrap: Any
    ) -> DirectionMetrics:
        outcomes = rank_queries(rows, len(queries), [asked], block_size=512)[0]
        return summarise(asked, outcomes, len(candidates), bootstrap)


def _within(truth: Mapping[str, Answers], gallery: CocoTruth) -> CocoTruth:
    """A truth without the candidates that are not in the test split."""
    sides = {"i2t": gallery.t2i, "t2i": gallery.i2t}
    return CocoTruth(
        **{
            way: {query: [answer for answer in answers if answer in inside] for query, answers in truth[way].items()}
            for way, inside in sides.items()
        }
    )


def _query_set(answers: Answers, queries: Mapping[int, int], candidates: Mapping[int, int]) -> QuerySet:
    """The judged queries, by row, with the columns of their answers."""
    places = _sorted_places(answers, queries)
    found = [(number, candidates.get(answer)) for number, query in enumerate(places) for answer in set(answers[query])]
    missing = sum(column is None for _, column in found)
    if missing:
        raise DataError(f"{missing} right candidates of the truth were not scored; score the whole test split")
    number, column = torch.tensor(found, dtype=torch.int64).reshape(-1, 2).unbind(1)
    nothing = MatchLists(torch.zeros(len(places) + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    lists = MatchLists.from_pairs(number, column, len(places))
    rows = torch.tensor(list(places.values()), dtype=torch.int64)
    return QuerySet(rows=rows, answers=lists, ignored=nothing, left_out=len(queries) - len(places))


def _sorted_places(ids: Any, places: Mapping[int, int]) -> dict[int, int]:
    """Id to place, in order of places."""
    missing = [key for key in ids if key not in places]
    if missing:
        raise DataError(f"id {missing[0]} of the truth was not scored (nor {len(missing) - 1} others); score them all")
    return dict(sorted(((key, places[key]) for key in ids), key=lambda item: item[1]))
