"""Signals from pictures: how alike a picture is to those that a caption is declared for, and to the caption itself."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from truepair.mining.gallery import Gallery, Integers
from truepair.mining.neighbours import Neighbours
from truepair.mining.signals.encoded import CROWD, OWNERS, Encoded, owners_of

PICTURE_TERMS = ("best", "relative")

ACROSS_TERMS = ("picture to caption", "caption to picture", "above own", "above captions", "above pictures")

_ROWS = 4096  # cells at once
_NUMBERS = 1 << 20  # float32 numbers that are compared at once: 4 MB, which stay in a core's own memory


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
    best, owner = best_owners(encoded.gallery, images, images, pictures, captions, OWNERS)
    return torch.stack([best, 2 * best - crowd[torch.from_numpy(pictures)] - crowd[owner]], dim=1)


def best_owners(
    gallery: Gallery, vectors: Tensor, images: Tensor, rows: Integers, captions: Integers, most: int
) -> tuple[Tensor, Tensor]:
    """The pictures of captions that are the most like some vectors.

    What is asked of one caption is one product of matrices, so features are read once a caption, not once a cell.

    Args:
        gallery: whose captions are meant.
        vectors: [V, F].
        images: features of its pictures [N, F].
        rows: number of each vector that is asked about [P].
        captions: those whose pictures are meant [P].
        most: pictures of a caption that are looked at.

    Returns:
        The highest product of each vector with a picture of its caption [P], and that picture [P].
    """
    best, owner = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.int64)
    order = np.argsort(captions, kind="stable")
    asked, first, counts = np.unique(captions[order], return_index=True, return_counts=True)  # [C] each
    for some, start, stop in _blocks(counts, max(_NUMBERS // vectors.shape[1], 1), most):
        places = first[some, None] + np.arange(start, stop)  # [B, A]
        there = places < (first + counts)[some, None]
        cells = order[places.clip(max=len(order) - 1)]
        owners, stated = owners_of(gallery, asked[some], most)  # [B, O]
        products = torch.bmm(vectors[torch.from_numpy(rows[cells])], images[owners].transpose(1, 2))  # [B, A, O]
        highest, which = products.masked_fill_(~stated[:, None], -torch.inf).max(dim=2)  # [B, A]
        place, kept = torch.from_numpy(cells[there]), torch.from_numpy(there)
        best[place], owner[place] = highest[kept], owners.gather(1, which)[kept]
    return best, owner


def _blocks(counts: Integers, most: int, more: int) -> Iterator[tuple[Integers, int, int]]:
    """Yield lists that are about as long, and which part of them: so many that few vectors are gathered at once.

    Args:
        counts: length of each list [C].
        most: vectors of a block.
        more: vectors that each list needs beside its own.
    """
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        least = int(counts[order[start]])
        stop = int(np.searchsorted(counts, least + least // 8, side="right", sorter=order))  # an eighth is padding
        some = order[start : min(stop, start + max(most // (least + least // 8 + more), 1))]
        start += len(some)
        longest = int(counts[some].max())
        for first in range(0, longest, most):
            yield some, first, min(first + most, longest)


class Across:
    """Pictures against captions, in the space of both.

    Args:
        encoded: the gallery; has features of both.
    """

    def __init__(self, encoded: Encoded) -> None:
        assert encoded.across is not None and encoded.near_across is not None
        self.encoded = encoded
        self.images, self.captions = encoded.across
        of_pictures, of_captions = encoded.near_across
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
            crowds = self.crowd.pictures[mine], self.crowd.captions[asked]
            above = [there - one for one in (self.own[mine], *crowds)]
            found[some] = torch.stack([there, there, *above], dim=1)
        *cells, place = gallery.distinct(pictures, captions)
        found[:, 1] = self._back(*cells)[torch.from_numpy(place)]
        return found

    def _back(self, pictures: Integers, captions: Integers) -> Tensor:
        """The best similarity between a caption's pictures and a picture's captions, of each cell [P]."""
        gallery = self.encoded.gallery
        own, has = gallery.captions.padded(pictures, CROWD)  # [P, K]
        cell = np.nonzero(has)[0]
        best, _ = best_owners(gallery, self.captions, self.images, own[has], captions[cell], CROWD)
        found = torch.full((len(pictures),), -torch.inf)
        return found.scatter_reduce(0, torch.from_numpy(cell), best, "amax")


def _split(*arrays: Integers) -> list[tuple[Integers, ...]]:
    starts = range(0, len(arrays[0]), 16 * _ROWS)
    return [tuple(array[start : start + 16 * _ROWS] for array in arrays) for start in starts]
