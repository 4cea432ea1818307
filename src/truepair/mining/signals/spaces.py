"""Spaces that are fitted on a gallery itself, from what it declares alone."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor

from truepair.errors import DataError
from truepair.mining.gallery import Lists

FOLDS = 5  # of the ridge regression: no picture is projected by a map that was fitted on its own captions

_ROWS = 65_536  # vectors that are summed at once
_SUMMED = 8192  # products that are summed in single precision, whose sums are in double
_FEW = 1024  # vectors whose products are in double too: what is left of two or three is less than single rounds off


@dataclass(frozen=True)
class Projection:
    """A linear map, then L2-normalisation.

    Attributes:
        mean: taken off first [D].
        map: [D, E].
    """

    mean: Tensor
    map: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Vectors [..., D] to L2-normalised ones [..., E]."""
        return F.normalize((vectors - self.mean) @ self.map, dim=-1)


def list_means(vectors: Tensor, lists: Lists) -> Tensor:
    """Mean of the vectors [V, D] of each of N lists [N, D]; zero of an empty one."""
    owners = torch.from_numpy(np.repeat(np.arange(len(lists)), lists.counts))
    sums = torch.zeros(len(lists), vectors.shape[1])
    for owner, values in zip(owners.split(_ROWS), torch.from_numpy(lists.values).split(_ROWS), strict=True):
        sums.index_add_(0, owner, vectors[values])
    return sums / torch.from_numpy(lists.counts)[:, None].clamp(min=1)


def caption_space(vectors: Tensor, captions: Lists, shrinkage: float = 0.1) -> Projection:
    """A space in which the directions in which captions of one picture differ count less.

    It whitens these differences, as linear discriminant analysis does.

    Args:
        vectors: sentence vectors of the captions [M, D].
        captions: those of each picture; a picture that has one tells nothing.
        shrinkage: share of the identity, at the mean variance, that is added to their covariance.

    Raises:
        DataError: no picture has several.
    """
    several = captions.counts > 1
    if not several.any():
        raise DataError("a space of captions is fitted on pictures that have several; this source gives each one")
    means = list_means(vectors, captions)
    owners = torch.from_numpy(np.repeat(np.arange(len(captions)), captions.counts))
    values = torch.from_numpy(captions.values)
    kept = torch.from_numpy(several)[owners].nonzero()[:, 0]
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for some in kept.split(_ROWS):
        differences = (vectors[values[some]] - means[owners[some]]).double()
        covariance += differences.T @ differences
    covariance /= len(kept)
    level = shrinkage * covariance.diagonal().mean().clamp(min=1e-12)
    spread, directions = torch.linalg.eigh(covariance + level * torch.eye(len(covariance), dtype=torch.float64))
    centre = vectors[values[kept]].mean(dim=0)
    return Projection(centre, (directions * spread.rsqrt()).float())


def picture_space(images: Tensor, pictures: Lists, width: int = 64, shrinkage: float = 0.5) -> Projection | None:
    """Directions in which pictures that share a caption text agree and others differ (discriminant analysis).

    Args:
        images: features of N pictures [N, F].
        pictures: those that each caption is declared for.
        width: most directions.
        shrinkage: share of the identity, at the mean variance, in the covariance within a text.

    Returns:
        None where fewer texts than twice ``width`` are shared by several pictures, too few to fit a metric; and where
        less than half of the pictures share one, for the others may differ in other ways.
    """
    shared = np.flatnonzero(pictures.counts > 1)
    owners = np.repeat(np.arange(len(pictures)), pictures.counts)
    stated = np.isin(owners, shared)
    members, first = np.unique(pictures.values[stated], return_index=True)  # each picture with its first shared text
    if len(shared) < 2 * width or 2 * len(members) < len(images):
        return None
    group = torch.from_numpy(np.unique(owners[stated][first], return_inverse=True)[1])
    centre = images.mean(dim=0)
    vectors = images[torch.from_numpy(members)] - centre  # [G, F]
    counts = torch.bincount(group)
    means = torch.zeros(len(counts), vectors.shape[1]).index_add(0, group, vectors) / counts[:, None]
    covariance = _gram(vectors.sub_(means[group])) / len(vectors)
    level = covariance.diagonal().mean().clamp(min=1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=torch.float64)
    size = len(covariance)
    last = (max(size - width, 0), size - 1)  # by rising ratio of what differs between texts and within
    directions = eigh(_gram(means).numpy(), covariance.numpy(), subset_by_index=last)[1]
    return Projection(centre, torch.from_numpy(directions).float())


def _gram(vectors: Tensor) -> Tensor:
    """Sums of products of each two numbers of some vectors [V, F], float64 [F, F].

    Of a matrix and itself, numpy computes one half.
    """
    found = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for some in vectors.split(_SUMMED):
        block = some.numpy()
        found += torch.from_numpy(block.T @ block)
    return found


def _moments(inputs: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """All that a ridge regression needs of some rows: sums of products of (input, 1) and (input, target, 1).

    Those of several sets of rows add up, so that what is left out by turns need not be summed again.

    Args:
        inputs: [N, F].
        targets: [N, D].
        rows: of both [R].

    Returns:
        float64 [F + 1, F + D + 1].
    """
    width = inputs.shape[1]
    precision = torch.float32 if len(inputs) > _FEW else torch.float64
    known, told = inputs[rows].to(precision), targets[rows].to(precision)
    found = torch.zeros(width + 1, width + targets.shape[1] + 1, dtype=torch.float64)
    found[:-1, :width] = _gram(known)
    found[:-1, -1] = found[-1, :width] = known.sum(dim=0, dtype=torch.float64)
    found[-1, -1] = len(rows)
    found[-1, width:-1] = told.sum(dim=0, dtype=torch.float64)
    for here, there in zip(known.split(_SUMMED), told.split(_SUMMED), strict=True):
        found[:-1, width:-1] += here.T @ there
    return found


def _ridge(moments: Tensor, penalty: float = 0.3) -> Projection:
    """Ridge regression from one space into another, whose output is centred and normalised.

    Args:
        moments: of inputs and targets [F + 1, F + D + 1].
        penalty: on the squared weights.
    """
    width = len(moments) - 1
    mean = moments[:-1, -1] / moments[-1, -1]
    centred = moments[:-1, :-1] - mean[:, None] * moments[-1, :-1]  # [F, F + D]
    curvature = centred[:, :width] + penalty * torch.eye(width, dtype=torch.float64)
    found = torch.cholesky_solve(centred[:, width:], torch.linalg.cholesky(curvature))
    return Projection(mean.float(), found.float())


def predicted_captions(images: Tensor, vectors: Tensor, captions: Lists) -> Tensor:
    """What a picture's captions may be, by a ridge regression that was fitted on other pictures.

    Pictures of one first caption are left out together, for they would tell each other's.

    Args:
        images: features of N pictures [N, F].
        vectors: sentence vectors [M, D].
        captions: those of each picture.

    Returns:
        L2-normalised [N, D], in the space of sentence vectors without their mean.
    """
    targets = list_means(vectors, captions)
    fold = torch.from_numpy(captions.values[captions.starts[:-1]] % FOLDS)
    folds = [rows for number in range(FOLDS) if len(rows := (fold == number).nonzero()[:, 0])]
    moments = [_moments(images, targets, rows) for rows in folds]
    whole = sum(moments, torch.zeros_like(moments[0]))
    found = torch.empty(len(images), vectors.shape[1])
    for rows, own in zip(folds, moments, strict=True):
        found[rows] = _ridge(whole - own if len(folds) > 1 else whole)(images[rows])
    return found
