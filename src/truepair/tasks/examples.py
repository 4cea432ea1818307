"""Retrieval examples to look at: a few queries drawn at random, with their best answers and what is known of each."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.evaluation.scores import ScoreSource
from truepair.evaluation.truth import Mark
from truepair.tasks.retrieval import RetrievalTask


@dataclass(frozen=True)
class ShownAnswer:
    """One answer to a query.

    Attributes:
        number: caption number (picture query) or picture row (caption query).
        similarity: cosine of the two features.
        mark: its own pair, another true match, a near-match (same family), wrong, or not known.
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
    """Draw queries at random, not by how well they look.

    Args:
        task: the pictures, captions and their truth.
        similarity: cosines of the features of both.
        ranking: the order to show.
        count: queries of each direction.
        depth: answers of each query.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for row in torch.randperm(task.truth.images, generator=generator)[:count].tolist():
        best = _best(ranking.image_rows(row, row + 1), depth)
        marks = task.known.marks(torch.full_like(best, row), best)
        pictures.append(Example(row, _answers(best, similarity.image_rows(row, row + 1), marks)))
    captions = []
    asked = task.truth.queries("t2i").rows  # captions that are true of some picture here
    for row in asked[torch.randperm(len(asked), generator=generator)[:count]].tolist():
        best = _best(ranking.caption_rows(row, row + 1), depth)
        marks = task.known.marks(best, torch.full_like(best, row))
        captions.append(Example(row, _answers(best, similarity.caption_rows(row, row + 1), marks)))
    return RetrievalExamples(pictures, captions)


def _best(scores: Tensor, depth: int) -> Tensor:
    """Numbers of the highest scores of the one row [1, N], int64 [<= depth] on the CPU."""
    return scores[0].topk(min(depth, scores.shape[1])).indices.cpu()


def _answers(best: Tensor, cosines: Tensor, marks: NDArray[np.str_]) -> list[ShownAnswer]:
    """The best answers [D] to one query, with their cosines out of its row [1, N] and how they relate to it [D]."""
    shown = zip(best.tolist(), cosines[0, best].tolist(), marks.tolist(), strict=True)
    return [ShownAnswer(number, cosine, mark) for number, cosine, mark in shown]
