"""Retrieval examples to look at: a few queries drawn by lot, with their best answers and what is known of each."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from truepair.evaluation.scores import FeatureScores, ScoreSource
from truepair.evaluation.truth import RetrievalTruth
from truepair.tasks.retrieval import RetrievalTask

Mark = Literal["own", "true", "near", "wrong"]


@dataclass(frozen=True)
class Answer:
    """One answer to a query.

    Attributes:
        number: caption number (picture query) or picture row (caption query).
        similarity: cosine of the two features.
        mark: its own pair, another true match, a near-match (same family), or wrong.
    """

    number: int
    similarity: float
    mark: Mark


@dataclass(frozen=True)
class Example:
    """A query and its best answers, best first.

    Attributes:
        query: picture row, or caption number.
        answers: the first few.
    """

    query: int
    answers: list[Answer]


@dataclass(frozen=True)
class RetrievalExamples:
    """Queries of both directions.

    Attributes:
        pictures: pictures asking for captions.
        captions: captions asking for pictures.
    """

    pictures: list[Example]
    captions: list[Example]


def draw_examples(
    task: RetrievalTask,
    similarity: FeatureScores,
    ranking: ScoreSource,
    *,
    count: int = 6,
    depth: int = 5,
    seed: int = 0,
) -> RetrievalExamples:
    """Draw queries by lot, not by how well they look.

    Args:
        task: the pictures, captions and their truth.
        similarity: features of both.
        ranking: the order to show.
        count: queries of each direction.
        depth: answers of each query.
        seed: of the draw.
    """
    truth = task.gallery.truth
    marks = _Marks(truth, task.near)
    generator = torch.Generator().manual_seed(seed)

    def answers(order: Tensor, cosines: Tensor, query: int, by_picture: bool) -> list[Answer]:
        pairs = [(query, other) if by_picture else (other, query) for other in order.tolist()]
        return [
            Answer(other, float(cosines[other]), marks.of(*pair))
            for other, pair in zip(order.tolist(), pairs, strict=True)
        ]

    pictures = [
        Example(
            row,
            answers(_best(ranking.image_rows(row, row + 1), depth), similarity.image_rows(row, row + 1)[0], row, True),
        )
        for row in torch.randperm(truth.images, generator=generator)[:count].tolist()
    ]
    asked = truth.queries("t2i").rows  # captions that are true of some picture here
    captions = [
        Example(
            row,
            answers(
                _best(ranking.caption_rows(row, row + 1), depth), similarity.caption_rows(row, row + 1)[0], row, False
            ),
        )
        for row in asked[torch.randperm(len(asked), generator=generator)[:count]].tolist()
    ]
    return RetrievalExamples(pictures, captions)


def _best(scores: Tensor, depth: int) -> Tensor:
    """Numbers of the highest scores of the one row [1, N]."""
    return scores[0].topk(min(depth, scores.shape[1])).indices


class _Marks:
    def __init__(self, truth: RetrievalTruth, near: Tensor) -> None:
        self.own = set(map(tuple, truth.own.tolist()))
        self.true = set(map(tuple, truth.true.tolist()))
        self.near = set(map(tuple, near.tolist()))

    def of(self, image: int, caption: int) -> Mark:
        """How a picture and a caption relate."""
        pair = (image, caption)
        if pair in self.own:
            return "own"
        if pair in self.true:
            return "true"
        return "near" if pair in self.near else "wrong"
