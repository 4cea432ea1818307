"""Retrieval examples to look at: a few queries drawn by lot, with their best answers and what is known of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.evaluation.marks import Mark
from truepair.evaluation.scores import ScoreSource
from truepair.evaluation.truth import RetrievalTruth
from truepair.tasks.retrieval import RetrievalTask


@dataclass(frozen=True)
class ShownAnswer:
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
    answers: list[ShownAnswer]


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
    similarity: ScoreSource,
    ranking: ScoreSource,
    *,
    count: int = 6,
    depth: int = 5,
    seed: int = 0,
) -> RetrievalExamples:
    """Draw queries by lot, not by how well they look.

    Args:
        task: the pictures, captions and their truth.
        similarity: cosines of the features of both.
        ranking: the order to show.
        count: queries of each direction.
        depth: answers of each query.
        seed: of the draw.
    """
    truth = task.gallery.truth
    marks = _Marks(truth, task.near)
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for row in torch.randperm(truth.images, generator=generator)[:count].tolist():
        best = _best(ranking.image_rows(row, row + 1), depth)
        cosines = similarity.image_rows(row, row + 1)[0, best].tolist()
        answers = [ShownAnswer(k, cosine, marks.of(row, k)) for k, cosine in zip(best.tolist(), cosines, strict=True)]
        pictures.append(Example(row, answers))
    captions = []
    asked = truth.queries("t2i").rows  # captions that are true of some picture here
    for row in asked[torch.randperm(len(asked), generator=generator)[:count]].tolist():
        best = _best(ranking.caption_rows(row, row + 1), depth)
        cosines = similarity.caption_rows(row, row + 1)[0, best].tolist()
        answers = [ShownAnswer(k, cosine, marks.of(k, row)) for k, cosine in zip(best.tolist(), cosines, strict=True)]
        captions.append(Example(row, answers))
    return RetrievalExamples(pictures, captions)


def _best(scores: Tensor, depth: int) -> Tensor:
    """Numbers of the highest scores of the one row [1, N]."""
    return scores[0].topk(min(depth, scores.shape[1])).indices


class _Marks:
    """How pictures and captions of a task relate."""

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
