"""Where retrieval scores come from: slices of the image-by-caption matrix, never all of it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
    """Inner products of features, computed slice by slice.

    Attributes:
        images: [I, E]; L2-normalised for cosine similarity.
        captions: [T, E].
    """

    images: Tensor
    captions: Tensor

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Similarity of some images to all captions, [stop - start, T]."""
        return self.images[start:stop] @ self.captions.T

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Similarity of some captions to all images, [stop - start, I]."""
        return self.captions[start:stop] @ self.images.T


def as_source(scores: ScoreSource | Tensor) -> ScoreSource:
    """A matrix [I, T] as a score source; a score source as it is."""
    return MatrixScores(scores) if isinstance(scores, torch.Tensor) else scores
