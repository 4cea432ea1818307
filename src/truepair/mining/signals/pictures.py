"""Signals from pictures: how alike a picture is to those that a caption is declared for, and to the caption itself."""

import numpy as np
import torch
from torch import Tensor

from truepair.mining.gallery import Integers
from truepair.mining.neighbours import Neighbours
from truepair.mining.signals.encoded import CROWD, Encoded, owners_of

PICTURE_TERMS = ("best", "relative")

ACROSS_TERMS = ("picture to caption", "caption to picture", "above own", "above captions", "above pictures")

_ROWS = 4096  # cells at once


def picture_similarity(
    encoded: Encoded, images: Tensor, near: Neighbours, pictures: Integers, captions: Integers
) -> Tensor:
    """How alike pictures are to those that captions are declared for.

    Args:
        encoded: the gallery.
        images: features of its pictures, L2-normalised [N, F].
        near: the nearest pictures of each, itself among them.
        pictures: of each cell [P].
        captions: of each cell [P].

    Returns:
        [P, 2] in the order of ``PICTURE_TERMS``: the cosine with the most alike of the caption's pictures; and by how
        much twice that exceeds the means of both pictures' nearest others.
    """
    itself = near.places == torch.arange(len(images))[:, None]
    others = near.scores.masked_fill(itself, -torch.inf).topk(min(CROWD, near.scores.shape[1]), dim=1).values
    real = others.isfinite()
    crowd = torch.where(real, others, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)  # [N]
    found = torch.empty(len(pictures), len(PICTURE_TERMS))
    for start in range(0, len(pictures), _ROWS):
        some = slice(start, start + _ROWS)
        owners, there = owners_of(encoded.gallery, captions[some])  # [B, O]
        mine = torch.from_numpy(pictures[some])
        cosines = torch.einsum("bf,bof->bo", images[mine], images[owners]).masked_fill(~there, -torch.inf)
        best, which = cosines.max(dim=1)
        nearest = owners.gather(1, which[:, None])[:, 0]
        found[some] = torch.stack([best, 2 * best - crowd[mine] - crowd[nearest]], dim=1)
    return found


class Across:
    """Pictures against captions, in the space of both.

    Args:
        encoded: the gallery; has features of both.
    """

    def __init__(self, encoded: Encoded) -> None:
        both, of_captions, of_pictures = encoded.across, encoded.across_pictures, encoded.across_captions
        assert both is not None and of_captions is not None and of_pictures is not None
        self.encoded = encoded
        self.images, self.captions = both
        self.crowd = encoded.crowd_of(of_captions, of_pictures)
        lists = encoded.gallery.captions
        owner = np.repeat(np.arange(len(lists)), lists.counts)
        own = torch.cat(
            [
                (self.images[torch.from_numpy(here)] * self.captions[torch.from_numpy(there)]).sum(dim=1)
                for here, there in _split(owner, lists.values)
            ]
        )
        self.own = torch.full((len(lists),), -torch.inf).scatter_reduce(0, torch.from_numpy(owner), own, "amax")

    def __call__(self, pictures: Integers, captions: Integers) -> Tensor:
        """Signals of cells [P, 5] in the order of ``ACROSS_TERMS``.

        They are the similarity of the picture and the caption; the best of those between the caption's pictures and the
        picture's captions; and how far the first is above the picture's best own pair, above the mean of its nearest
        other captions, and above that of the caption's nearest other pictures.
        """
        gallery = self.encoded.gallery
        found = torch.empty(len(pictures), len(ACROSS_TERMS))
        for start in range(0, len(pictures), _ROWS):
            some = slice(start, start + _ROWS)
            mine, asked = torch.from_numpy(pictures[some]), torch.from_numpy(captions[some])
            there = (self.images[mine] * self.captions[asked]).sum(dim=1)
            owners, stated = owners_of(gallery, captions[some], CROWD)  # [B, O]
            own, has = (torch.from_numpy(part) for part in gallery.captions.padded(pictures[some], CROWD))  # [B, K]
            back = self.images[owners] @ self.captions[own].transpose(1, 2)  # [B, O, K]
            back = back.masked_fill(~(stated[:, :, None] & has[:, None]), -torch.inf).amax(dim=(1, 2))
            crowds = self.crowd.pictures[mine], self.crowd.captions[asked]
            found[some] = torch.stack([there, back, there - self.own[mine], *(there - one for one in crowds)], dim=1)
        return found


def _split(*arrays: Integers) -> list[tuple[Integers, ...]]:
    starts = range(0, len(arrays[0]), 16 * _ROWS)
    return [tuple(array[start : start + 16 * _ROWS] for array in arrays) for start in starts]
