"""Scores of all pairs, in slices."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from truepair.relations.similarity import similarities


class ScoreSource(Protocol):
    """Scores of I images against T captions, read in slices of whole rows or whole columns."""

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Scores of images ``start..stop - 1`` against all captions, [stop - start, T]."""
        ...

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Scores of captions ``start..stop - 1`` against all images, [stop - start, I]."""
        ...


@dataclass(frozen=True)
class MatrixScores:
    """Scores that are already there as one matrix.

    Attributes:
        matrix: [I, T].
    """

    matrix: Tensor

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Rows of the matrix, [stop - start, T]."""
        return self.matrix[start:stop]

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Columns of the matrix as rows, [stop - start, I]."""
        return self.matrix[:, start:stop].T


@dataclass(frozen=True)
class FeatureScores:
    """Similarities of features, computed slice by slice.

    Attributes:
        images: [I, E]; L2-normalised for cosine similarity. Those of a model with queries are [I, Q, E].
        captions: [T, E].
    """

    images: Tensor
    captions: Tensor

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Similarity of some images to all captions, [stop - start, T]."""
        return similarities(self.images[start:stop], self.captions)

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Similarity of some captions to all images, [stop - start, I]."""
        return similarities(self.captions[start:stop], self.images)


def as_source(scores: ScoreSource | Tensor) -> ScoreSource:
    """A matrix [I, T] as a score source; a score source as it is."""
    return MatrixScores(scores) if isinstance(scores, torch.Tensor) else scores


class CaptionScores:
    """Scores of captions, several of which may have one text: they tie, to the last bit.

    Args:
        source: scores of images and texts.
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
        # Most captions of a data set follow each other with texts that do, too: such a run is one slice.
        ends = (distinct.diff() > 1).nonzero().flatten() + 1
        runs = distinct.tensor_split(ends)
        rows = torch.cat([self.source.caption_rows(int(run[0]), int(run[-1]) + 1) for run in runs])
        return rows[place]


class SubsetScores:
    """Scores of some images against some captions of a larger source, in slices.

    A slice of the part is cut from the slice of the whole that holds it; so the parts should lie close together.

    Args:
        source: scores of all images and captions.
        images: which images, ascending int64 [i].
        captions: which captions, ascending int64 [c].
    """

    def __init__(self, source: ScoreSource, images: Tensor, captions: Tensor) -> None:
        self.source = source
        self.images = images
        self.captions = captions

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Scores of images ``start..stop - 1`` of the part against its captions, [stop - start, c]."""
        rows = self.images[start:stop]
        first = int(rows[0])
        block = self.source.image_rows(first, int(rows[-1]) + 1)
        return block[rows - first][:, self.captions]

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Scores of captions ``start..stop - 1`` of the part against its images, [stop - start, i]."""
        rows = self.captions[start:stop]
        first = int(rows[0])
        block = self.source.caption_rows(first, int(rows[-1]) + 1)
        return block[rows - first][:, self.images]
