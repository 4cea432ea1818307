"""What encoders make of a gallery's pictures and captions, and what is derived from it once for all cells."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.mining.gallery import Gallery, Integers, Lists
from truepair.mining.neighbours import EXACT, Neighbours, nearest, nearest_both
from truepair.mining.signals.spaces import (
    Projection,
    caption_space,
    list_means,
    picture_space,
    predicted_captions,
)
from truepair.models.encoders.frozen import FrozenStates
from truepair.relations.ranges import ranges, starts_of

CROWD = 10
"""Nearest others that a similarity is compared with."""

OWNERS = 16
"""Pictures that a text stands for, at most: one of hundreds of drawings needs no more."""

_DEPTH = 64  # neighbours of a caption that are looked at, so that 10 pictures are among them
_FEWEST = 32  # captions beside the first of their picture, to fit a space on
_CELLS = 1 << 22  # numbers sorted at once


@dataclass(frozen=True)
class TokenStates:
    """Token states of captions in several layers, on disk.

    Attributes:
        states: a row for each token, [layers * D].
        first: row of each caption's first token [M].
        counts: tokens of each caption [M].
        content: which tokens are words or parts of words, not special ones, bool [rows].
        weights: how much each token tells; 0 for function words and special ones, float32 [rows].
        layers: how many.
    """

    states: FrozenStates
    first: Tensor
    counts: Tensor
    content: Tensor
    weights: Tensor
    layers: int

    @cached_property
    def words(self) -> Lists:
        """Rows of the content of each caption, M lists; the first row of a caption without any."""
        counts, first = self.counts.numpy(), self.first.numpy()
        caption, rows = ranges(first, counts)
        kept = self.content.numpy()[rows]
        kept[starts_of(counts)[:-1][np.bincount(caption, kept, len(counts)) == 0]] = True
        return Lists(starts_of(np.bincount(caption[kept], minlength=len(counts))), rows[kept])


@dataclass(frozen=True)
class Crowd:
    """How near the nearest others are.

    Attributes:
        captions: mean similarity of each caption to its nearest pictures, those it is declared for left out [M].
        pictures: that of each picture to its nearest captions, its own left out [N].
        recall: share of the nearest that the search found.
    """

    captions: Tensor
    pictures: Tensor
    recall: float


@dataclass(frozen=True)
class Encoded:
    """A gallery of N pictures and M captions, encoded.

    Attributes:
        gallery: whose pictures and captions are meant.
        captions: sentence vectors, L2-normalised [M, D].
        tokens: token states, for alignment; None for none.
        images: features of a frozen image encoder, L2-normalised [N, F]; None for none.
        dual: image and caption features of a dual encoder, L2-normalised [N, E] and [M, E]; None for none.
        space: of captions, fitted elsewhere; None fits it on the gallery.
        left_out: rows of the table whose picture could not be read; the gallery is of the others.
        exact: up to so many vectors, neighbours are found among all.
    """

    gallery: Gallery
    captions: Tensor
    tokens: TokenStates | None = None
    images: Tensor | None = None
    dual: tuple[Tensor, Tensor] | None = None
    space: Projection | None = None
    left_out: tuple[int, ...] = ()
    exact: int = EXACT

    @cached_property
    def single(self) -> bool:
        """Whether no picture has more than one caption."""
        return int(self.gallery.captions.counts.max(initial=1)) <= 1

    @cached_property
    def homes(self) -> Lists:
        """The other captions of the pictures that each caption is declared for, M lists."""
        gallery = self.gallery
        pictures = gallery.pictures
        caption, place = ranges(pictures.starts[:-1], np.minimum(pictures.counts, OWNERS))
        others = gallery.captions.some(pictures.values[place])
        caption = caption[others.owners]
        kept = others.values != caption
        return Lists.of(caption[kept], others.values[kept], len(pictures))

    @cached_property
    def learned_captions(self) -> Tensor | None:
        """Captions in a space where differences between captions of one picture count less [M, E]; None without any."""
        if self.space is not None:
            return self.space(self.captions)
        lists = self.gallery.captions
        if int((lists.counts - 1).clip(min=0).sum()) < _FEWEST:
            return None
        return caption_space(self.captions, lists)(self.captions)

    @cached_property
    def learned_images(self) -> Tensor | None:
        """Pictures in a space fitted on those that share a caption text [N, E]; None where too few do."""
        space = None if self.images is None else picture_space(self.images, self.gallery.pictures)
        return None if space is None or self.images is None else space(self.images)

    @cached_property
    def across(self) -> tuple[Tensor, Tensor] | None:
        """Pictures and captions in one space [N, E], [M, E]: a dual encoder's, or by ridge regression; None without."""
        if self.dual is not None:
            return self.dual
        if self.images is None:
            return None
        centred = F.normalize(self.captions - self.captions.mean(dim=0), dim=1)
        return predicted_captions(self.images, self.captions, self.gallery.captions), centred

    @cached_property
    def near_captions(self) -> Neighbours:
        """The nearest captions of each caption, itself among them."""
        longest = int(self.gallery.captions.counts.max(initial=1))
        depth = min(_DEPTH, (CROWD + 1) * longest + CROWD)
        return nearest(self.captions, depth, exact=self.exact)

    @cached_property
    def centred_images(self) -> Tensor | None:
        """Features of pictures without their mean, which all have in common, L2-normalised [N, F]."""
        return None if self.images is None else F.normalize(self.images - self.images.mean(dim=0), dim=1)

    @cached_property
    def near_images(self) -> Neighbours | None:
        """The nearest pictures of each picture, itself among them."""
        centred = self.centred_images
        return None if centred is None else nearest(centred, 2 * CROWD, exact=self.exact)

    @cached_property
    def near_learned(self) -> Neighbours | None:
        """The nearest pictures of each picture in the learned space, itself among them."""
        learned = self.learned_images
        return None if learned is None else nearest(learned, 2 * CROWD, exact=self.exact)

    @cached_property
    def near_across(self) -> tuple[Neighbours, Neighbours] | None:
        """The nearest captions of each picture in the space of both, and the nearest pictures of each caption."""
        longest = int(self.gallery.captions.counts.max(initial=1))
        if self.across is None:
            return None
        return nearest_both(*self.across, 2 * CROWD + min(longest, CROWD), 2 * CROWD, exact=self.exact)

    @cached_property
    def best_crowd(self) -> Crowd:
        """By the best similarity of a caption to a picture's captions."""
        found, gallery, sets = self.near_captions, self.gallery, self._sets
        captions = torch.empty(len(gallery.texts))
        having, there = Lists.of(sets.values, sets.owners, len(captions)).padded(
            np.arange(len(captions)), CROWD
        )  # [M, O]
        for part in torch.arange(len(captions)).split(max(_CELLS // found.places[0].numel() // having.shape[1], 1)):
            near = found.places[part].clamp(min=0)
            places = torch.from_numpy(having)[near].flatten(1)  # [B, n * O]
            valid = torch.from_numpy(there)[near] & (found.places[part] >= 0)[:, :, None]
            scores = found.scores[part][:, :, None].expand(valid.shape).masked_fill(~valid, -torch.inf).flatten(1)
            captions[part] = self._mean_of_sets(*_once(places, scores), part)
        of_sets = torch.empty(len(sets))
        for count in np.unique(sets.counts).tolist():
            some = torch.from_numpy(np.flatnonzero(sets.counts == count))
            for part in some.split(max(_CELLS // found.places[0].numel() // count, 1)):
                own = torch.from_numpy(sets.some(part.numpy()).values).view(-1, count)  # [B, K]
                places, scores = found.places[own].flatten(1), found.scores[own].flatten(1)  # [B, K * n]
                of_sets[part] = self._mean_of_captions(*_once(places.clamp(min=0), scores), self._first[part])
        return Crowd(captions, of_sets[self._alike], found.recall)

    @cached_property
    def mean_crowd(self) -> Crowd:
        """By the mean similarity of a caption to a picture's captions, which is that to their mean."""
        means = list_means(self.captions, self._sets)  # [S, D]
        longest = int(self._sets.counts.max(initial=1))
        near, back = nearest_both(self.captions, means, 2 * CROWD, CROWD + longest, exact=self.exact)
        captions = self._mean_of_sets(near.places, near.scores, torch.arange(len(near.places)))
        of_sets = self._mean_of_captions(back.places, back.scores, self._first)
        return Crowd(captions, of_sets[self._alike], min(near.recall, back.recall))

    @cached_property
    def _sets(self) -> Lists:
        """The sets of captions that pictures have, S lists."""
        return self.gallery.captions.some(self.gallery.first_alike)

    @property
    def _alike(self) -> Tensor:
        """Number of the set of captions of each picture [N]."""
        return torch.from_numpy(self.gallery.alike)

    @property
    def _first(self) -> Tensor:
        """The first picture with each set of captions [S]."""
        return torch.from_numpy(self.gallery.first_alike)

    @cached_property
    def _times(self) -> Tensor:
        """How many pictures have each set of captions, float32 [S]."""
        return torch.bincount(self._alike).float()

    def crowd_of(self, of_captions: Neighbours, of_pictures: Neighbours) -> Crowd:
        """By the nearest pictures of each caption [M, n] and the nearest captions of each picture [N, n]."""
        captions = torch.arange(len(of_captions.places))[:, None].expand(of_captions.places.shape)
        scores = self._of_others(of_captions.places.clamp(min=0), captions, of_captions.scores)
        pictures = torch.arange(len(of_pictures.places))
        return Crowd(
            _mean_of_best(scores, torch.ones_like(scores)),
            self._mean_of_captions(of_pictures.places, of_pictures.scores, pictures),
            min(of_captions.recall, of_pictures.recall),
        )

    def _mean_of_captions(self, places: Tensor, scores: Tensor, pictures: Tensor) -> Tensor:
        """Mean of the best scores of some pictures [B] with captions [B, n], their own left out; NaN where none is."""
        scores = self._of_others(pictures[:, None].expand(places.shape), places.clamp(min=0), scores)
        return _mean_of_best(scores, torch.ones_like(scores))

    def _mean_of_sets(self, places: Tensor, scores: Tensor, captions: Tensor) -> Tensor:
        """Mean of the best scores of some captions [B] with pictures, those they are declared for left out.

        Args:
            places: sets of captions [B, n], each of which counts as often as there are pictures with it.
            scores: of the captions with any picture of the set [B, n].
            captions: [B].

        Returns:
            [B]; NaN where there are no other pictures.
        """
        places = places.clamp(min=0)
        scores = self._of_others(self._first[places], captions[:, None].expand(places.shape), scores)
        return _mean_of_best(scores, self._times[places])

    def _of_others(self, pictures: Tensor, captions: Tensor, scores: Tensor) -> Tensor:
        """Scores of cells [B, n], -inf where a cell is declared."""
        declared = self.gallery.is_declared(pictures.flatten().numpy(), captions.flatten().numpy())
        return scores.masked_fill(torch.from_numpy(declared).view(scores.shape), -torch.inf)


def _once(places: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Places and their scores, the best first, where of one place only the best counts; -inf for the others [B, n]."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places, scores = places.gather(1, order), scores.gather(1, order)
    by_place = places.argsort(dim=1, stable=True)  # of one place, the best first
    ranked = places.gather(1, by_place)
    again = torch.zeros_like(ranked, dtype=torch.bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    return places, scores.masked_fill(torch.zeros_like(again).scatter(1, by_place, again), -torch.inf)


def _mean_of_best(scores: Tensor, times: Tensor) -> Tensor:
    """Mean of the ``CROWD`` best scores, each of which stands for some [B, n]; NaN where all are -inf [B]."""
    best, order = scores.topk(min(CROWD, scores.shape[1]), dim=1)
    times = times.gather(1, order)
    counted = (CROWD - times.cumsum(dim=1) + times).clamp(min=0).minimum(times) * best.isfinite()
    return (best.masked_fill(counted == 0, 0.0) * counted).sum(dim=1) / counted.sum(dim=1)


def owners_of(gallery: Gallery, captions: Integers, most: int = OWNERS) -> tuple[Tensor, Tensor]:
    """The pictures that captions are declared for [B, O], and which of them there are, bool [B, O]."""
    owners, there = gallery.pictures.padded(captions, most)
    return torch.from_numpy(owners), torch.from_numpy(there)
