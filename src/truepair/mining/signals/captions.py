"""Signals from captions: whether a caption is true of a picture can be read off the captions that the picture has.

Each picture brings one caption or several: what one of them leaves out, another may say.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from truepair.mining.gallery import Integers
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.spaces import list_means
from truepair.mining.signals.words import kind_evidence, kinds_named, named_groups

SET_TERMS = ("best", "mean", "sets best", "sets mean", "best margin", "mean margin")

HUB_TERMS = ("best pictures", "best captions", "mean pictures", "mean captions")

_NUMBERS = 1 << 24  # float32 numbers that are gathered at once: 64 MB

_HOMES = 32  # other captions of a caption's own pictures that are looked at


def set_columns(encoded: Encoded) -> tuple[str, ...]:
    """Columns of :func:`set_similarity` that say something of a gallery."""
    return SET_TERMS[:1] if encoded.single else SET_TERMS


def set_similarity(encoded: Encoded, vectors: Tensor, pictures: Integers, captions: Integers) -> Tensor:
    """Similarity of captions, and of all captions of their own pictures, to the captions of other pictures.

    Args:
        encoded: the gallery.
        vectors: of its captions, L2-normalised [M, D].
        pictures: of each cell [P].
        captions: of each cell [P].

    Returns:
        [P, 6] in the order of ``SET_TERMS``: the best and the mean of the similarities to the picture's captions; the
        best and the mean of all similarities between the two pictures' captions; and how far the first two are above
        those of the caption to the other captions of its own picture, NaN where it has none. A caption that says little
        is close to many. Of a gallery with one caption a picture only the first, [P, 1].
    """
    if encoded.single:
        return _near(encoded, vectors, pictures, captions)[:, :1]
    found = torch.empty(len(pictures), len(set_columns(encoded)))
    own_lists, homes = encoded.gallery.captions, encoded.homes
    wide = own_lists.counts[pictures] + np.minimum(homes.counts[captions], _HOMES) + 1
    for some in _parts(wide, vectors.shape[1]):
        own, stated = (torch.from_numpy(part) for part in own_lists.padded(pictures[some]))  # [B, K]
        ours, caption = vectors[own], vectors[captions[some]]  # [B, K, D], [B, D]
        near = torch.einsum("bkd,bd->bk", ours, caption)
        best, mean = _best_and_mean(near, stated)
        home, there = (torch.from_numpy(part) for part in homes.padded(captions[some], _HOMES))  # [B, H]
        theirs = vectors[home]  # [B, H, D]
        at_home = torch.einsum("bhd,bd->bh", theirs, caption)
        home_best, home_mean = _best_and_mean(at_home, there)
        across = torch.cat([near[:, None], theirs @ ours.transpose(1, 2)], dim=1)  # [B, 1 + H, K]
        counted = torch.cat([torch.ones(len(there), 1, dtype=torch.bool), there], dim=1)[:, :, None] & stated[:, None]
        sets_best, sets_mean = _best_and_mean(across.flatten(1), counted.flatten(1))
        columns = [best, mean, sets_best, sets_mean, best - home_best, mean - home_mean]
        found[some] = torch.stack(columns, dim=1)
    return found


def _near(encoded: Encoded, vectors: Tensor, pictures: Integers, captions: Integers) -> Tensor:
    """The best and the mean of the similarities of captions to those of pictures [P, 2]."""
    found = torch.empty(len(pictures), 2)
    lists = encoded.gallery.captions
    for some in _parts(lists.counts[pictures] + 1, vectors.shape[1]):
        own, stated = (torch.from_numpy(part) for part in lists.padded(pictures[some]))  # [B, K]
        near = torch.einsum("bkd,bd->bk", vectors[own], vectors[captions[some]])
        found[some] = torch.stack(_best_and_mean(near, stated), dim=1)
    return found


def hub_columns(encoded: Encoded) -> tuple[str, ...]:
    """Columns of :func:`relative_similarity` that say something of a gallery."""
    return HUB_TERMS[:2] if encoded.single else HUB_TERMS


def relative_similarity(encoded: Encoded, pictures: Integers, captions: Integers) -> Tensor:
    """How much closer a caption and a picture are than either is to its nearest others.

    In crowded places a high similarity tells less (Conneau et al., ICLR 2018, call it cross-domain similarity local
    scaling).

    Args:
        encoded: the gallery.
        pictures: of each cell [P].
        captions: of each cell [P].

    Returns:
        [P, 4] in the order of ``HUB_TERMS``: the best similarity to the picture's captions minus the mean of that to
        the caption's nearest pictures, and minus that of the picture's nearest captions; both for the mean similarity.
        Of a gallery with one caption a picture only the first two.
    """
    *cells, place = encoded.gallery.distinct(pictures, captions)
    values = _near(encoded, encoded.captions, *cells)[torch.from_numpy(place)]
    kinds = [encoded.best_crowd] if encoded.single else [encoded.best_crowd, encoded.mean_crowd]
    columns = []
    for number, crowd in enumerate(kinds):
        columns += [values[:, number] - crowd.captions[captions], values[:, number] - crowd.pictures[pictures]]
    return torch.stack(columns, dim=1)


class Kinds:
    """What captions name, counted once for a gallery.

    Args:
        encoded: the gallery.
    """

    def __init__(self, encoded: Encoded) -> None:
        gallery = encoded.gallery
        self.groups = named_groups(gallery.texts)  # [M, G]
        kinds = kinds_named(self.groups)  # [M, kinds]
        self.share = list_means(self.groups, gallery.captions)  # [N, G]
        self.stated = list_means(kinds, gallery.captions)  # [N, kinds]
        self.named = float(kinds.amax(dim=1).mean())

    def __call__(self, pictures: Integers, captions: Integers) -> Tensor:
        """Evidence on cells [P, 3 * kinds]."""
        return kind_evidence(self.groups[captions], self.share[pictures], self.stated[pictures])


def _best_and_mean(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The highest and the mean of some of the values of each row [B, K]; NaN where there are none."""
    best = values.masked_fill(~there, -torch.inf).amax(dim=1)
    mean = values.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1)
    return best.masked_fill(best == -torch.inf, torch.nan), mean


def _parts(wide: Integers, width: int) -> Iterator[Integers]:
    """Yield places of cells that need about as many vectors each, so many that memory stays bounded.

    Args:
        wide: vectors that each cell needs [P].
        width: numbers of a vector.
    """
    order = np.argsort(wide, kind="stable")
    start = 0
    while start < len(order):
        # The cells are in order, so the last of a part needs the most; a first guess by the first is corrected once.
        guess = max(_NUMBERS // (int(wide[order[start]]) * width), 1)
        most = int(wide[order[min(start + guess, len(order)) - 1]])
        stop = start + max(_NUMBERS // (most * width), 1)
        yield order[start:stop]
        start = stop
