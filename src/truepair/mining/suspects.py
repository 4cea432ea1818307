"""Suspected false negatives of a data set: pairs nobody declared that the model takes for matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from truepair.evaluation.reranking import find_candidates, score_candidates
from truepair.evaluation.scores import FeatureScores
from truepair.models.fusion.gallery import GalleryMatcher


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
) -> list[Suspect]:
    """Rank the undeclared pairs of a data set by the model's ITM probability, or by similarity.

    Similarity search proposes the nearest captions of every picture and the nearest pictures of every caption; ITM
    reads each proposed pair once. Pairs of one image id or one caption text are declared, and left out; so is a text
    already suspected of the same picture.

    Args:
        judge: pictures and captions of the data set, row by row: row r is pair r, n rows.
        image_ids: image id of each row.
        caption_keys: key of each row's normalised caption.
        candidates: how many neighbours of each row are read, in each direction.
        limit: how many suspects to return at most.
        by_itm: let ITM rank them; without, similarity does.

    Returns:
        Suspects, the strongest first.
    """
    declared = set(zip(image_ids, caption_keys, strict=True))
    similarity = FeatureScores(judge.images.features, judge.captions.features)
    pairs = find_candidates(similarity, len(image_ids), len(caption_keys), candidates).pairs
    scores = score_candidates(pairs, judge) if by_itm else pairs.values  # [P]
    suspects: list[Suspect] = []
    for place in torch.argsort(scores, descending=True, stable=True).tolist():
        image, caption = int(pairs.rows[place]), int(pairs.columns[place])
        text_of_image = (image_ids[image], caption_keys[caption])
        if text_of_image in declared:
            continue
        declared.add(text_of_image)  # once is enough
        probability = float(scores[place].sigmoid()) if by_itm else None
        suspects.append(Suspect(image, caption, probability, float(pairs.values[place])))
        if len(suspects) == limit:
            break
    return suspects
