"""Zero-shot retrieval: captions for pictures and pictures for captions that the model was not trained on."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from truepair.data.images import BadImageError
from truepair.data.judgements import JudgedCaptions
from truepair.data.left_out import LeftOut
from truepair.data.pairs import PairCollator
from truepair.data.readable import unreadable_pictures
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.engine.logs.progress import counting
from truepair.errors import ConfigError, DataError
from truepair.evaluation.coco import CocoReport
from truepair.evaluation.metrics import RetrievalMetrics, RetrievalProtocol, evaluate_retrieval
from truepair.evaluation.reranking import (
    ITM_ALONE,
    Combination,
    RerankedScores,
    choose_combination,
    find_candidates,
    score_candidates,
)
from truepair.evaluation.scores import CaptionScores, FeatureScores, ScoreSource
from truepair.evaluation.truth import Truth
from truepair.models.dual.base import DualEncoder
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.fusion.gallery import EncodedImages, GalleryMatcher, encode_captions, encode_images
from truepair.relations.pairs import PairSet

_STAND_IN = (64, 64)  # pixels of the picture in place of one that cannot be read


def readable_rows(table: PairTable, transform: ImageTransform, left_out: LeftOut, most: float) -> PairTable:
    """The rows of a gallery whose picture can be read; the others are left out, the same ones for every model.

    Args:
        table: the rows of a split.
        transform: how pictures are read.
        left_out: takes the others.
        most: the largest share of them that is put up with.

    Raises:
        DataError: there are more, or none can be read.
    """
    with counting(f"reading the pictures of {table.name}") as progress:
        unreadable = unreadable_pictures(table, min_side=transform.min_side, progress=progress)
    left_out.pictures(table, unreadable, most=most)
    return table.select(np.setdiff1d(np.arange(len(table)), list(unreadable))) if unreadable else table


def one_row_a_picture(table: PairTable, left_out: LeftOut) -> PairTable:
    """The rows of a gallery: one for each picture, with all its captions; a line says so where rows are merged.

    A list with one caption a line repeats each picture. Copies of one picture would tie, and a tie counts as a miss.

    Args:
        table: the rows of a split.
        left_out: is told.
    """
    pictures = table.as_pictures()
    if pictures is not table:
        left_out.merged(table, len(pictures))
    return pictures


class ImageSource:
    """Batches of a table's pictures in row order, unaugmented.

    Args:
        table: the pictures.
        transform: evaluation transform, which draws nothing; not needed with a cache.
        cache: states of the table's pictures, row by row.
        batch_size: pictures a batch.

    Raises:
        ConfigError: neither a transform nor a cache is given.
    """

    def __init__(
        self,
        table: PairTable,
        *,
        transform: ImageTransform | None = None,
        cache: ImageStates | None = None,
        batch_size: int = 64,
    ) -> None:
        if transform is None and cache is None:
            raise ConfigError("pictures need a transform to read them with, or a cache of their states")
        self.table = table
        self.transform = transform
        self.cache = cache
        self.batch_size = batch_size

    @property
    def are_states(self) -> bool:
        """Whether the batches are states [B, N, W] rather than pixels [B, 3, H, W]."""
        return self.cache is not None

    def batches(self, unreadable: dict[int, str] | None = None) -> Iterator[Tensor]:
        """Yield the pictures, batch by batch, as states [B, N, W] or pixels [B, 3, H, W]; threads read them.

        Args:
            unreadable: takes the rows whose picture cannot be read, and why; a black one stands in for each, which the
                caller has to leave out. None makes such a picture an error.

        Raises:
            DataError: files of pictures are missing.
            BadImageError: a picture cannot be read; a substitute would make the figures wrong.
        """
        if self.cache is not None:
            for start in range(0, len(self.table), self.batch_size):
                yield self.cache[start : start + self.batch_size]
            return
        missing = [] if unreadable is not None else self.table.missing_files()
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(self.table):,} pictures of {self.table.name} are missing, such as "
                f"{', '.join(missing[:3])}; check the path, or take their rows out of the data"
            )
        assert self.transform is not None
        stand_in = self.transform(Image.new("RGB", _STAND_IN)) if unreadable is not None else torch.empty(0)
        cells = self.table.rows.select_columns(["image"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.table), self.batch_size):
                pixels = []
                part = cells[start : start + self.batch_size]["image"]
                for row, read in enumerate(pool.map(partial(_read, transform=self.transform), part), start):
                    if isinstance(read, Tensor):
                        pixels.append(read)
                    elif unreadable is None:
                        raise read
                    else:
                        unreadable[row] = str(read)
                        pixels.append(stand_in)
                yield torch.stack(pixels)


def _read(stored: Mapping[str, Any], transform: ImageTransform) -> Tensor | BadImageError:
    """The pixels of a picture [3, H, W], or why it cannot be read."""
    try:
        return transform.read(stored)
    except BadImageError as error:
        return error


@dataclass(frozen=True)
class EncodedPictures:
    """The pictures of some rows that can be read, one a row, as a model encodes them.

    Attributes:
        table: the pictures, each with all its captions.
        images: what the model makes of them.
        unreadable: how many more there are, which cannot be read.
    """

    table: PairTable
    images: EncodedImages
    unreadable: int


def encode_pictures(
    model: DualEncoder, table: PairTable, transform: ImageTransform, batch_size: int, left_out: LeftOut, most: float
) -> EncodedPictures:
    """Read and encode the pictures of a split, each once; those that cannot be read are left out.

    Args:
        model: put into evaluation mode.
        table: the rows.
        transform: how pictures are read.
        batch_size: pictures that the model reads at once.
        left_out: takes what is left out and merged.
        most: the largest share of pictures that may be left out.

    Raises:
        DataError: there are more, or none can be read.
    """
    missing = np.flatnonzero(~table.contents.there[table.contents.number]).tolist()
    paths = table.image_paths(missing)
    gone = {row: f"image {path} is missing; check image_root" for row, path in zip(missing, paths, strict=True)}
    left_out.require_enough(table, gone, most)  # before the long work
    pictures = one_row_a_picture(table, left_out)
    source = ImageSource(pictures, transform=transform, batch_size=batch_size)
    why: dict[int, str] = {}
    model.eval()
    with counting(f"pictures of {table.name}") as show:
        encoded = encode_images(model, _shown(source.batches(why), len(pictures), show))
    if why:
        numbers = table.pictures  # [N], those of the rows of `pictures`
        bad = np.flatnonzero(np.isin(numbers, list(why)))
        left_out.pictures(table, {int(row): why[int(numbers[row])] for row in bad}, most=most)
        kept = np.setdiff1d(np.arange(len(pictures)), list(why))
        pictures, encoded = pictures.select(kept), EncodedImages(encoded.states[kept], encoded.features[kept])
    return EncodedPictures(pictures, encoded, len(why))


def _shown(batches: Iterator[Tensor], total: int, show: Callable[[int, int], None]) -> Iterator[Tensor]:
    """Batches, counted as they are taken."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        show(done, total)


@dataclass(frozen=True)
class Ranking:
    """One way of ranking I pictures and their captions, under both protocols.

    Attributes:
        texts: scores of the T distinct texts, for "any true match" [I, T].
        captions: scores of the C captions that the data state, for the usual protocol [I, C].
    """

    texts: ScoreSource
    captions: CaptionScores


@dataclass(frozen=True)
class RetrievalResult:
    """Figures of one model on one set.

    Attributes:
        source: where the pairs come from.
        split: which of its splits were measured.
        ways: metrics by way of ranking: "similarity" alone, the top candidates re-ranked by "ITM" alone, and by
            "similarity + ITM" together, as far as they were measured.
        combination: the weights of the last; None when they were not combined.
        images: how many pictures were asked for.
        own_captions: how many captions the data state of them: the candidates and queries of the usual protocol.
        captions: how many distinct texts are known of them: the candidates of "any true match".
        unreadable: how many more pictures there are, which cannot be read.
        coco: the same ways under the truths of COCO, CxC and ECCV Caption; empty where they were not asked for.
        rankings: the scores behind each of ``ways``, for examples; no part of the figures.
    """

    source: str
    split: str
    ways: dict[str, RetrievalMetrics]
    combination: Combination | None
    images: int
    own_captions: int
    captions: int
    unreadable: int = 0
    coco: dict[str, CocoReport] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict, repr=False, compare=False)

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
        images: the pictures, one a row; their table has their own captions and, in ``names`` or ``group`` columns, the
            known truth.
        protocol: how to measure.
        judged: crossed matches that people found, which count as well.
        cache: makes or opens the frozen text encoder's states of the candidates; None to run the encoder each time.
        source: where the pairs come from, as the figures name it; by default the table's name.
        unreadable: pictures that were left out, as the figures say.
        encoded: what the one model that is measured makes of the pictures; None to read them for each that is.
        lost: is told of pictures that cannot be read any more (table, row -> why), and may refuse; they are left out
            from then on. None makes one an error.

    Raises:
        ConfigError: a picture has several rows.

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
        source: str | None = None,
        unreadable: int = 0,
        encoded: EncodedImages | None = None,
        lost: Callable[[PairTable, Mapping[int, str]], None] | None = None,
    ) -> None:
        table = images.table
        if len(table) > table.pictures.max() + 1:
            raise ConfigError(f"{table.name} has several rows of one picture; rank table.as_pictures() instead")
        self.collator = collator
        self.images = images
        self.protocol = protocol or RetrievalProtocol()
        self.judged = judged
        self.source = source or table.name
        self.unreadable = unreadable
        self._encoded = encoded
        self._lost = lost
        self._cache = cache
        self._know()

    def _know(self) -> None:
        """Gather what is known of the pictures."""
        self.known = build_truth(self.images.table, self.judged)
        self.truth = self.known if self.protocol.leave_out_families else self.known.without_ignored()
        self.__dict__.pop("_reading", None)
        self.caption_states = None if self._cache is None else self._cache(self.texts)

    @property
    def texts(self) -> list[str]:
        """The U texts that the model reads: those of the truth, then stated captions that it reads otherwise."""
        return self._reading[0]

    @property
    def read_as(self) -> Tensor:
        """Which of these texts each stated caption is, int64 [C]; captions that the model reads alike are one text."""
        return self._reading[1]

    @cached_property
    def _reading(self) -> tuple[list[str], Tensor]:
        """Texts that are equal after normalisation are one for the truth, but not for every model."""
        stated = list(self.images.table.captions())  # [C]
        known = self.truth.texts
        texts = list(dict.fromkeys([*known, *stated]))
        ids, _ = self.collator.encode(texts)
        _, first, alike = np.unique(ids.numpy(), axis=0, return_index=True, return_inverse=True)
        first = first[alike.reshape(-1)]  # of each text the first that has its tokens
        kept = np.flatnonzero((first == np.arange(len(texts))) | (np.arange(len(texts)) < len(known)))
        place = dict(zip(texts, np.searchsorted(kept, first).tolist(), strict=True))
        return [texts[number] for number in kept], torch.tensor([place[caption] for caption in stated])

    def figures(self, model: DualEncoder) -> dict[str, float]:
        """Quick figures for the log of a run, similarity alone: R@1 and mAP@R both ways, truth-aware and naive."""
        judge = self.encode(model)
        ranking = self.rankings(judge, rerank=False)["similarity"]
        metrics = evaluate_retrieval(ranking.texts, self.truth, captions=ranking.captions, resamples=0)
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
        similarity = self.similarity(judge)
        candidates = find_candidates(similarity, self.truth.images, self.truth.captions, self.protocol.rerank)
        log_odds = score_candidates(candidates.pairs, judge)
        temperature = float(model.temperature.detach())
        return choose_combination(similarity, self.truth, candidates, log_odds, temperature=temperature)[0]

    def evaluate(self, model: DualEncoder, combination: Combination | None = None) -> RetrievalResult:
        """Measure every way of ranking.

        Args:
            model: what to evaluate; put into evaluation mode.
            combination: weights chosen on validation pictures; without, similarity and ITM are not combined.
        """
        rankings = self.rankings(self.encode(model), combination)
        metrics = {
            way: evaluate_retrieval(ranking.texts, self.truth, captions=ranking.captions)
            for way, ranking in rankings.items()
        }
        return RetrievalResult(
            source=self.source,
            split="+".join(self.images.table.splits),
            ways=metrics,
            combination=combination,
            images=self.truth.images,
            own_captions=len(self.truth.own_captions),
            captions=self.truth.captions,
            unreadable=self.unreadable,
            rankings=rankings,
        )

    def similarity(self, judge: GalleryMatcher) -> FeatureScores:
        """Cosine similarity of all pictures and the T texts of the truth, [I, T]."""
        return FeatureScores(judge.images.features, judge.captions.features[: self.truth.captions])

    def rankings(
        self, judge: GalleryMatcher, combination: Combination | None = None, *, rerank: bool = True
    ) -> dict[str, Ranking]:
        """Scores of every way of ranking: "similarity", and with re-ranking "ITM" and "similarity + ITM"."""
        texts = self.similarity(judge)
        read = FeatureScores(judge.images.features, judge.captions.features)  # [I, U]
        ways = {"similarity": Ranking(texts, CaptionScores(read, self.read_as))}
        if not (rerank and self._reranks(judge.model)):
            return ways
        count, k = len(self.texts), self.protocol.rerank
        by_text = find_candidates(texts, self.truth.images, self.truth.captions, k)
        by_caption = find_candidates(read, self.truth.images, count, k, listed=self.read_as)
        # Both protocols re-rank nearly the same pairs: ITM reads each once.
        pairs = PairSet.union(by_text.pairs.widened(count), by_caption.pairs)
        judged = pairs.with_values(score_candidates(pairs, judge))
        weights = {"ITM": ITM_ALONE} | ({} if combination is None else {"similarity + ITM": combination})
        for way, weight in weights.items():
            over_texts, over_read = (
                RerankedScores(source, found, weight.apply(found.pairs, _of(judged, found.pairs)))
                for source, found in ((texts, by_text), (read, by_caption))
            )
            ways[way] = Ranking(over_texts, CaptionScores(over_read, self.read_as))
        return ways

    def encode(self, model: DualEncoder) -> GalleryMatcher:
        """Encode the table's pictures and captions."""
        model.eval()
        images = self._encoded
        if images is None:
            why: dict[int, str] = {}
            batches = self.images.batches(None if self._lost is None else why)
            images = encode_images(model, batches, are_states=self.images.are_states)
            if self._lost is not None and why:
                self._lost(self.images.table, why)
                images = self._without(images, list(why))
        captions = encode_captions(model, self.texts, self.collator.encode, cache=self.caption_states)
        return GalleryMatcher(model, images, captions)

    def _without(self, images: EncodedImages, rows: list[int]) -> EncodedImages:
        """Leave pictures out from now on that broke since the task began, and their place among those encoded."""
        kept = np.setdiff1d(np.arange(len(self.images.table)), rows)
        source = self.images
        self.images = ImageSource(source.table.select(kept), transform=source.transform, batch_size=source.batch_size)
        self.unreadable += len(rows)
        self._know()
        return EncodedImages(images.states[kept], images.features[kept])

    def _reranks(self, model: DualEncoder) -> bool:
        """ITM that was not trained does not rank."""
        return self.protocol.rerank > 0 and model.itm_trained


def build_truth(table: PairTable, judged: JudgedCaptions | None = None) -> Truth:
    """What is known of a table's pictures and its distinct captions, the candidates; near-matches are ignored.

    Args:
        table: the pictures, their captions, and what it states of the truth.
        judged: crossed matches that people found; they take the place of the table's ``names``.
    """
    return Truth.of_table(table) if judged is None else Truth.of_table(table, judged.names, judged.near)


def _of(judged: PairSet, pairs: PairSet) -> Tensor:
    """The values of some of the judged pairs [P]."""
    return pairs.widened(judged.shape[1]).overridden_by(judged).values
