"""Suspected false negatives of a data set: pairs nobody declared that the model takes for matches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.evaluation.reranking import find_candidates, score_candidates
from truepair.evaluation.scores import FeatureScores
from truepair.models.fusion.gallery import GalleryMatcher
from truepair.relations.pairs import PairSet
from truepair.relations.similarity import similarities

_TIE = 1e-3
"""Cosines, or log-odds, that are no further apart say the same."""

_AT_ONCE = 1024  # rows of similarities held at once


@dataclass(frozen=True)
class Suspect:
    """One suspected false negative.

    Attributes:
        image: row of the picture.
        caption: row of the pair whose caption is suspected to be true of the picture.
        probability: ITM probability that they match; None where ITM was not asked.
        similarity: cosine of their features.
    """

    image: int
    caption: int
    probability: float | None
    similarity: float


def find_suspects(
    judge: GalleryMatcher,
    image_ids: Sequence[int],
    caption_keys: Sequence[int],
    *,
    candidates: int = 16,
    limit: int = 1000,
    by_itm: bool = True,
) -> tuple[list[Suspect], int]:
    """Rank the undeclared pairs of a data set by the model's ITM probability, or by similarity.

    Similarity search proposes the nearest captions of every picture and the nearest pictures of every caption; ITM
    reads each proposed pair once. Pairs of one image id or one caption text are declared, and left out; so is a text
    already suspected of the same picture.

    A pair is no suspect where its score ties: where the picture is as similar to any other caption, or the caption to
    any other picture; and where ITM says the same of all the captions of each picture, or of all the pictures of each
    caption. A model that has collapsed would otherwise suspect all pairs in some order.

    Args:
        judge: pictures and captions of the data set, row by row: row r is pair r, n rows.
        image_ids: image id of each row.
        caption_keys: key of each row's normalised caption.
        candidates: how many neighbours of each row are read, in each direction.
        limit: how many suspects to return at most.
        by_itm: let ITM rank them; without, similarity does.

    Returns:
        Suspects, the strongest first; and how many undeclared pairs are none, since their scores tie.
    """
    declared = set(zip(image_ids, caption_keys, strict=True))
    similarity = FeatureScores(judge.images.features, judge.captions.features)
    pairs = find_candidates(similarity, len(image_ids), len(caption_keys), candidates).pairs
    scores = score_candidates(pairs, judge) if by_itm else pairs.values  # [P]
    ties = _ties(pairs, judge.images.features, judge.captions.features)  # [P]
    if by_itm and _says_one_thing(scores, pairs):
        ties = torch.ones_like(ties)
    suspects: list[Suspect] = []
    tied = 0
    for place in torch.argsort(scores, descending=True, stable=True).tolist():
        image, caption = int(pairs.rows[place]), int(pairs.columns[place])
        text_of_image = (image_ids[image], caption_keys[caption])
        if text_of_image in declared:
            continue
        declared.add(text_of_image)  # once is enough
        if ties[place]:
            tied += 1
            continue
        probability = float(scores[place].sigmoid()) if by_itm else None
        suspects.append(Suspect(image, caption, probability, float(pairs.values[place])))
        if len(suspects) == limit:
            break
    return suspects, tied


def _ties(pairs: PairSet, images: Tensor, captions: Tensor) -> Tensor:
    """Which pairs are of a picture to which all captions are alike, or of such a caption, bool [P].

    Args:
        pairs: cells [n, n].
        images: features [n, E], or [n, Q, E] of a model with queries.
        captions: features [n, E].
    """
    return _is_blunt(images, captions)[pairs.rows] | _is_blunt(captions, images)[pairs.columns]


def _is_blunt(features: Tensor, others: Tensor) -> Tensor:
    """Whether each of some features [n, E] is as similar to all of the others [m, E] (one may have queries), [n]."""
    if features.dim() == 3 or others.dim() == 3:
        parts = (similarities(part, others).double().var(dim=1, correction=0) for part in features.split(_AT_ONCE))
        return torch.cat(list(parts)) <= _TIE**2
    centred = others.double() - others.double().mean(0)
    covariance = centred.T @ centred / len(others)  # [E, E]
    variance = ((features.double() @ covariance) * features.double()).sum(1)  # [n]
    return variance <= _TIE**2


def _says_one_thing(scores: Tensor, pairs: PairSet) -> bool:
    """Whether scores [P] are the same for all captions of each picture, or for all pictures of each caption."""
    return any(
        _spread(scores, side, size) <= _TIE for side, size in zip((pairs.rows, pairs.columns), pairs.shape, strict=True)
    )


def _spread(scores: Tensor, groups: Tensor, count: int) -> float:
    """The largest difference of scores [P] within a group, given the group of each [P]; infinite if all are alone."""
    if int(torch.bincount(groups).amax()) < 2:
        return math.inf
    highest = scores.new_full((count,), -math.inf).scatter_reduce(0, groups, scores, "amax")
    lowest = scores.new_full((count,), math.inf).scatter_reduce(0, groups, scores, "amin")
    return float((highest - lowest).amax())
