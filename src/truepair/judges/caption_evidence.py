"""Evidence on whether a caption is true of an image that has several captions of its own.

Each image brings K captions: what one of them leaves out, another may say. All functions are pure and on tensors; the
pairs are a ``PairSet`` of image rows and caption numbers, see ``caption_pairs``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.errors import DataError
from truepair.relations.pairs import PairSet

SIMILARITY_TERMS = ("best", "mean", "sets best", "sets mean", "best margin", "mean margin")

RELATIVE_TERMS = ("best images", "best captions", "mean images", "mean captions")

ALIGNMENT_TERMS = ("mean", "rarity", "one caption")

_NEAREST = 10

_ROWS = 512  # captions compared with all images at once


def caption_pairs(
    images: Tensor, owners: Tensor, places: Tensor, shape: Sequence[int], labels: Tensor | None = None
) -> PairSet:
    """Pairs of an image and a caption of another one.

    Args:
        images: row of each image, int64 [P].
        owners: row of the image that each caption belongs to [P].
        places: place of each caption among that image's own [P].
        shape: numbers of images N and of captions each K, whatever follows: the shape of their sentence vectors.
        labels: which pairs match, bool [P]; all 1 if absent.

    Returns:
        Cells (image row, owner * K + place) of an N x (N * K) matrix; values are the labels.
    """
    count, each = shape[:2]
    values = torch.ones(len(images)) if labels is None else labels.float()
    return PairSet(images, owners * each + places, values, (count, count * each))


def owners_and_places(pairs: PairSet) -> tuple[Tensor, Tensor]:
    """Whose each caption of ``caption_pairs`` is, and its place among their own, int64 [P] each."""
    images, captions = pairs.shape
    each = captions // images
    return pairs.columns // each, pairs.columns % each


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


def caption_space(vectors: Tensor, shrinkage: float = 0.1) -> Projection:
    """A space in which the directions in which captions of one image differ count less.

    It whitens these differences, as linear discriminant analysis does.

    Args:
        vectors: sentence vectors of the K captions of each of N training images [N, K, D].
        shrinkage: share of the identity, at the mean variance, that is added to their covariance.

    Raises:
        DataError: the images have one caption each.
    """
    if vectors.shape[1] < 2:
        raise DataError("a space of captions is fitted on images that have several; this source gives each one")
    differences = (vectors - vectors.mean(dim=1, keepdim=True)).flatten(0, 1).double()  # [N * K, D]
    covariance = differences.T @ differences / len(differences)
    level = shrinkage * covariance.diagonal().mean().clamp(min=1e-12)
    values, directions = torch.linalg.eigh(covariance + level * torch.eye(len(covariance), dtype=torch.float64))
    return Projection(vectors.mean(dim=(0, 1)), (directions * values.rsqrt()).float())


def image_to_caption(images: Tensor, vectors: Tensor, penalty: float = 0.3) -> Projection:
    """Ridge regression from image features to the mean vector of the image's captions, without its mean.

    Args:
        images: features of N training images [N, F].
        vectors: sentence vectors of their K captions [N, K, D].
        penalty: on the squared weights.
    """
    centre = images.mean(dim=0)
    inputs, targets = (images - centre).double(), (vectors.mean(dim=1) - vectors.mean(dim=(0, 1))).double()
    curvature = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1], dtype=torch.float64)
    return Projection(centre, torch.linalg.solve(curvature, inputs.T @ targets).float())


def set_similarity(vectors: Tensor, pairs: PairSet) -> Tensor:
    """Similarity of a caption, and of all captions of its own image, to the captions of another image.

    Args:
        vectors: L2-normalised sentence vectors of N images with K >= 2 captions each [N, K, D].
        pairs: P pairs, from ``caption_pairs``.

    Returns:
        [P, 6] in the order of ``SIMILARITY_TERMS``: the best and the mean of the K similarities; the best and the mean
        of all K x K similarities between the two images' captions; and how far the first two are above those of the
        caption to the other captions of its own image. A caption that says little is close to many.
    """
    found = []
    for part in torch.arange(len(pairs)).split(_ROWS):
        some = pairs.where(part)
        owners, places = owners_and_places(some)
        theirs, ours = vectors[owners], vectors[some.rows]  # [R, K, D]
        caption = theirs[torch.arange(len(part)), places][:, :, None]  # [R, D, 1]
        near, home = (ours @ caption)[:, :, 0], (theirs @ caption)[:, :, 0]  # [R, K]
        itself = F.one_hot(places, home.shape[1]).bool()  # [R, K]
        across = theirs @ ours.transpose(1, 2)  # [R, K, K]
        best, mean = near.amax(dim=1), near.mean(dim=1)
        home_best = home.masked_fill(itself, -torch.inf).amax(dim=1)
        home_mean = home.masked_fill(itself, 0.0).sum(dim=1) / (home.shape[1] - 1)
        columns = [best, mean, across.amax(dim=(1, 2)), across.mean(dim=(1, 2)), best - home_best, mean - home_mean]
        found.append(torch.stack(columns, dim=1))
    return torch.cat(found)


def relative_similarity(vectors: Tensor, pairs: PairSet, nearest: int = _NEAREST) -> Tensor:
    """How much closer a caption and an image are than either is to its nearest others.

    In crowded places a high similarity tells less (Conneau et al., ICLR 2018, call it cross-domain similarity local
    scaling). Takes memory for N * K * N numbers.

    Args:
        vectors: L2-normalised sentence vectors of N images with K captions each [N, K, D].
        pairs: P pairs, from ``caption_pairs``.
        nearest: images, or captions, that a pair is compared with; none of them is the caption's or the image's own.

    Returns:
        [P, 4] in the order of ``RELATIVE_TERMS``: the best similarity to the image's captions minus the mean of that to
        the caption's nearest images, and minus that of the image's nearest captions; both for the mean similarity.
    """
    count, each = vectors.shape[:2]
    flat = vectors.flatten(0, 1)  # [N * K, D]
    best, mean = torch.empty(2, len(flat), count)
    for start in range(0, len(flat), _ROWS):
        rows = slice(start, start + _ROWS)
        similarity = (flat[rows] @ flat.T).view(-1, count, each)  # [R, N, K]
        best[rows], mean[rows] = similarity.amax(dim=2), similarity.mean(dim=2)
    columns = []
    for table in (best, mean):
        table[torch.arange(len(flat)), torch.arange(count).repeat_interleave(each)] = -torch.inf
        value = table[pairs.columns, pairs.rows]  # [P]
        of_caption = table.topk(min(nearest, count - 1), dim=1).values.mean(dim=1)  # [N * K]
        of_image = table.topk(min(nearest, (count - 1) * each), dim=0).values.mean(dim=0)  # [N]
        columns += [value - of_caption[pairs.columns], value - of_image[pairs.rows]]
    return torch.stack(columns, dim=1)


def token_alignment(captions: Tensor, mask: Tensor, weights: Tensor, states: Tensor, states_mask: Tensor) -> Tensor:
    """How well the words of captions are matched by words of one image's captions (Zhang et al., ICLR 2020, BERTScore).

    Args:
        captions: L2-normalised token states of B captions [B, L, D].
        mask: their tokens, without special ones and padding, bool [B, L].
        weights: how much each token tells; 0 for function words [B, L].
        states: token states of the image's K captions [K, M, D].
        states_mask: their tokens [K, M].

    Returns:
        [B, 3] in the order of ``ALIGNMENT_TERMS``: the similarity of each token to the most similar token of the image,
        as a mean over the tokens, and as a mean by weight; and the first mean if one of the K captions must match all.
    """
    similarity = torch.einsum("bld,kmd->blkm", captions, states)
    per_caption = similarity.masked_fill(~states_mask, -1.0).amax(dim=3)  # [B, L, K]
    best = per_caption.amax(dim=2)  # [B, L]
    tokens = mask.sum(dim=1).clamp(min=1)  # [B]
    weighted = (best * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)
    one = ((per_caption * mask[:, :, None]).sum(dim=1) / tokens[:, None]).amax(dim=1)
    return torch.stack([(best * mask).sum(dim=1) / tokens, weighted, one], dim=1)
