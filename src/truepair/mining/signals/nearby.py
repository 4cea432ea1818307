"""Signals from pictures like those of a cell: what is said of these may be true of the cell's own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.mining.gallery import Integers
from truepair.mining.signals.encoded import Encoded, owners_of
from truepair.mining.signals.spaces import list_means

NEARBY_TERMS = ("caption", "picture", "both")

_NEAREST = 20  # pictures of a neighbourhood
_OWN = 8  # captions of a picture whose neighbourhoods count
_CELLS = 4096  # cells at once
_NUMBERS = 1 << 20  # float32 numbers that are compared at once: 4 MB, which stay in a core's own memory


class Nearby:
    """What is said of the pictures nearest to a picture, or to one that a caption is declared for.

    A caption's neighbourhood are the pictures that, with their captions, are together the most like it and the first
    picture that it is declared for. They are looked for among the nearest by picture and the nearest by caption.

    Args:
        encoded: the gallery; has features of pictures.
    """

    def __init__(self, encoded: Encoded) -> None:
        assert encoded.images is not None
        self.encoded = encoded
        captions = encoded.gallery.captions
        centre = encoded.captions.mean(dim=0)
        self.asked = F.normalize(encoded.captions - centre, dim=1)  # [M, D]
        self.said = F.normalize(list_means(encoded.captions, captions) - centre, dim=1)  # [N, D]
        self.near = self._neighbourhoods()
        self.near_captions = torch.empty_like(self.asked)  # sums over the neighbourhoods [M, D]
        for part in torch.arange(len(self.near)).split(_CELLS):
            there = (self.near[part] >= 0).float()
            said = self.said[self.near[part].clamp(min=0)]  # [B, n, D]
            self.near_captions[part] = torch.einsum("bn,bnd->bd", there, said)
        self.near_pictures = torch.empty_like(self.said)  # sums over the neighbourhoods of their captions [N, D]
        for part in torch.arange(len(self.said)).split(_CELLS):
            own, has = (torch.from_numpy(found) for found in captions.padded(part.numpy(), _OWN))  # [B, K]
            self.near_pictures[part] = torch.einsum("bk,bkd->bd", has.float(), self.near_captions[own])

    def __call__(self, pictures: Integers, captions: Integers) -> Tensor:
        """Signals of cells [P, 3] in the order of ``NEARBY_TERMS``.

        They are the similarity of the caption to what is said near the picture, of the picture's captions to what is
        said near the caption, and of the two neighbourhoods. In neither does what is said of the cell's own pictures
        count.
        """
        found = torch.empty(len(pictures), len(NEARBY_TERMS))
        for some in (slice(start, start + _CELLS) for start in range(0, len(pictures), _CELLS)):
            mine, asked = torch.from_numpy(pictures[some]), torch.from_numpy(captions[some])
            owners, stated = owners_of(self.encoded.gallery, captions[some])  # [B, O]
            own, has = (torch.from_numpy(part) for part in self.encoded.gallery.captions.padded(pictures[some], _OWN))
            near = self.near[own].masked_fill(~has[:, :, None], -1).flatten(1)  # [B, K * n]
            times = (near[:, :, None] == owners.masked_fill(~stated, -2)[:, None]).sum(dim=1)  # [B, O]
            cell, which = times.nonzero(as_tuple=True)  # hardly any
            own_words = times[cell, which, None] * self.said[owners[cell, which]]
            here = self.near_pictures[mine].index_add_(0, cell, own_words, alpha=-1)
            once = (self.near[asked] == mine[:, None]).any(dim=1)
            there = self.near_captions[asked] - once[:, None] * self.said[mine]
            of_here, of_there = (side.norm(dim=1).clamp(min=1e-12) for side in (here, there))
            pairs = (
                (here, self.asked[asked], of_here),
                (there, self.said[mine], of_there),
                (here, there, of_here * of_there),
            )
            found[some] = torch.stack([(one * other).sum(dim=1) / length for one, other, length in pairs], dim=1)
        return found

    def _neighbourhoods(self) -> Tensor:
        """Pictures near each caption, the first that it is declared for left out, int64 [M, n]; -1 for no more."""
        encoded, size = self.encoded, len(self.said)
        images, by_picture, by_caption = encoded.centred_images, encoded.near_images, encoded.near_captions
        assert images is not None and by_picture is not None
        of_captions = encoded.gallery.pictures
        owner = torch.from_numpy(of_captions.values[of_captions.starts[:-1]])  # [M]
        found = torch.full((len(owner), min(_NEAREST, max(size - 1, 1))), -1)
        most = by_picture.places.shape[1] + by_caption.places.shape[1]  # candidates of a caption
        width = images.shape[1] + encoded.captions.shape[1]
        for part in torch.arange(len(owner)).split(max(_NUMBERS // (most * width), 1)):
            mine, near = owner[part], by_caption.places[part]
            said = owner[near.clamp(min=0)]  # the pictures of the nearest captions
            looks = torch.einsum("bf,bcf->bc", images[mine], images[said])
            looks = torch.cat([by_picture.scores[mine], looks], dim=1)  # [B, C]
            pictures = torch.where(by_picture.places[mine] >= 0, by_picture.places[mine], size)
            places = torch.cat([pictures, torch.where(near >= 0, said, size)], dim=1)
            places, order = places.sort(dim=1)  # those there are not come last
            open_ = (places < size) & (places != mine[:, None])
            open_[:, 1:] &= places[:, 1:] != places[:, :-1]
            places = places.clamp(max=size - 1)
            alike = looks.gather(1, order) + torch.einsum("bd,bcd->bc", self.asked[part], self.said[places])
            best = alike.masked_fill(~open_, -torch.inf).topk(min(found.shape[1], places.shape[1]), dim=1)
            chosen = places.gather(1, best.indices).masked_fill(~best.values.isfinite(), -1)
            found[part, : chosen.shape[1]] = chosen
        return found
