"""Which undeclared cells of a gallery are worth scoring: those that neighbour search finds, from either side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from truepair.mining.gallery import Integers, Lists
from truepair.mining.signals.encoded import Encoded

_ALL = 250_000  # cells of a gallery up to which all are proposed

_EACH = 10  # neighbours of each picture and caption, in each space
_OWNERS = 8  # pictures of a caption that are taken
_ROWS = 8192


@dataclass(frozen=True)
class Proposals:
    """Undeclared cells.

    Attributes:
        pictures: of each cell, int64 [P]; cells are sorted by picture and caption, each once.
        captions: of each cell [P].
        recall: share of the true nearest neighbours that each search found, by its name; 1 where all were compared.
    """

    pictures: Integers
    captions: Integers
    recall: dict[str, float]


def propose(encoded: Encoded) -> Proposals:
    """Cells whose caption is near a caption of the picture, or whose picture is near one of the caption's, or both.

    Every caption counts, not the first of a picture. Of a small gallery all undeclared cells are proposed.

    Args:
        encoded: the gallery.
    """
    gallery = encoded.gallery
    size = len(gallery.texts)
    recall: dict[str, float] = {}
    if len(gallery) * size <= _ALL:
        keys = np.arange(len(gallery) * size)
    else:
        keys = _sorted_once(np.concatenate([_sorted_once(part.ravel()) for part in _keys(encoded, recall)]))
    pictures, captions = keys // size, keys % size
    new = ~gallery.is_declared(pictures, captions)
    return Proposals(pictures[new], captions[new], recall)


def _sorted_once(keys: Integers) -> Integers:
    """Numbers in order, each once, which sorting tells faster than the hash table of ``np.unique``."""
    keys = np.sort(keys)
    return keys[np.append(True, np.diff(keys) != 0)] if len(keys) else keys


def _keys(encoded: Encoded, recall: dict[str, float]) -> Iterator[Integers]:
    """Yield cells as picture * M + caption, part by part."""
    gallery = encoded.gallery
    size = len(gallery.texts)
    longest = int(gallery.captions.counts.max(initial=1))
    near = encoded.near_captions
    recall["captions"] = near.recall
    # Of a caption's nearest, its own siblings come first as a rule.
    found = near.places[:, : _EACH + longest].numpy()
    for start in range(0, size, _ROWS):
        part = found[start : start + _ROWS]
        asked = np.arange(start, start + len(part))[:, None]
        yield from _crossed(gallery.pictures, part, asked, lambda owner, caption: owner * size + caption)
    for name, images in (("pictures", encoded.near_images), ("learned pictures", encoded.near_learned)):
        if images is None:
            continue
        recall[name] = images.recall
        places = images.places[:, : _EACH + 1].numpy()
        for start in range(0, len(gallery), _ROWS):
            part = places[start : start + _ROWS]
            asked = np.arange(start, start + len(part))[:, None]
            yield from _crossed(gallery.captions, part, asked, lambda caption, picture: picture * size + caption)
    if encoded.near_across is not None:
        of_pictures, of_captions = encoded.near_across
        recall["pictures to captions"], recall["captions to pictures"] = of_pictures.recall, of_captions.recall
        captions = of_pictures.places[:, : _EACH + 1].numpy()
        there = captions >= 0
        yield (np.arange(len(captions))[:, None] * size + captions)[there]
        pictures = of_captions.places[:, : _EACH + 1].numpy()
        there = pictures >= 0
        yield (pictures * size + np.arange(size)[:, None])[there]


def _crossed(
    lists: Lists, places: Integers, asked: Integers, key: Callable[[Integers, Integers], Integers]
) -> Iterator[Integers]:
    """Yield the keys of what belongs to each neighbour [B, n] with what asked [B, 1]."""
    there = places >= 0
    members, stated = lists.padded(places[there], _OWNERS)  # [C, O]
    askers = np.broadcast_to(asked, places.shape)[there]
    yield key(members, askers[:, None])[stated]
