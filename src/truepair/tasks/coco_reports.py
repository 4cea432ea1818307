"""A retrieval result on COCO under the truths of COCO itself, CxC and ECCV Caption."""

import torch
from torch import Tensor

from truepair.data.table import PairTable
from truepair.evaluation.coco import CocoGallery, CocoReport, CocoTruths
from truepair.evaluation.scores import ScoreSource
from truepair.relations.text import normalise_caption
from truepair.tasks.retrieval import RetrievalResult, build_gallery


class CaptionScores:
    """Scores of distinct texts as scores of captions, several of which may share a text.

    Args:
        source: scores of images and distinct texts.
        texts: the text of each caption, int64 [C].
    """

    def __init__(self, source: ScoreSource, texts: Tensor) -> None:
        self.source = source
        self.texts = texts

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Scores of images ``start..stop - 1`` against all captions, [stop - start, C]."""
        return self.source.image_rows(start, stop)[:, self.texts]

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Scores of captions ``start..stop - 1`` against all images, [stop - start, I]."""
        distinct, place = self.texts[start:stop].unique(return_inverse=True)
        rows = torch.cat([self.source.caption_rows(int(text), int(text) + 1) for text in distinct])
        return rows[place]


def coco_reports(result: RetrievalResult, table: PairTable, truths: CocoTruths) -> dict[str, CocoReport]:
    """The report of every way of ranking.

    Args:
        result: figures of a model on the table, with its rankings.
        table: the Karpathy test split of COCO; image and caption ids are COCO's.
        truths: from `load_coco_truths`.

    Raises:
        DataError: images or captions of the test split are missing.
    """
    places = {normalise_caption(text): number for number, text in enumerate(build_gallery(table).texts)}
    captions = [caption for own in table.rows["captions"] for caption in own]
    texts = torch.tensor([places[normalise_caption(caption)] for caption in captions])
    ids = [number for own in table.rows["caption_ids"] for number in own]
    gallery = CocoGallery(table.image_ids.tolist(), ids)
    return {way: gallery.evaluate(CaptionScores(scores, texts), truths) for way, scores in result.rankings.items()}
