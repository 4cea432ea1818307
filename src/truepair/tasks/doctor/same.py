"""Which pictures are the same, or nearly: by id, by file, by bytes, by what they show."""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from truepair.tasks.doctor.pictures import PictureFacts

Integers = NDArray[np.int64]

_FAR = 6  # bits of 64 in which the perceptual hashes of two pictures may differ that show nearly the same

# Of 255: differences of the colours of their thumbnails, on average and where they differ most. All of 149 photographs
# stay within when they are saved anew as JPEG of quality 30, halved, or made five times smaller; clocks that show
# different hours do not.
_COLOURS_FAR, _SPOT_FAR = 8.0, 48.0

_COMPARED = 100_000  # up to so many hashes all are compared with all

_LEADERS = 16  # pictures of one hash that are compared with those of other hashes


@dataclass(frozen=True)
class Groups:
    """N things in groups.

    Attributes:
        numbers: number of the group of each, int64 [N].
    """

    numbers: Integers

    @classmethod
    def joined(cls, count: int, left: Integers, right: Integers) -> "Groups":
        """Groups of things that are linked, by way of others or at once.

        Args:
            count: N.
            left: one end of each link [L].
            right: the other end [L].
        """
        graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
        return cls(connected_components(graph, directed=False)[1].astype(np.int64))

    def __len__(self) -> int:
        return int(self.numbers.max(initial=-1)) + 1

    def distinct(self, labels: Integers) -> Integers:
        """How many different labels each group has; -1 is none [groups]."""
        known = labels >= 0
        pairs = np.unique(np.stack([self.numbers[known], labels[known]]), axis=1)
        return np.bincount(pairs[0], minlength=len(self))

    def members(self, which: Integers) -> Iterator[Integers]:
        """The things of some groups."""
        order = np.argsort(self.numbers, kind="stable")
        starts = np.searchsorted(self.numbers[order], np.arange(len(self) + 1))
        for group in which.tolist():
            yield order[starts[group] : starts[group + 1]]


def same_labels(labels: Integers) -> tuple[Integers, Integers]:
    """Links between things of one label, each with the first of it; -1 is no label."""
    known = np.flatnonzero(labels >= 0)
    _, first, inverse = np.unique(labels[known], return_index=True, return_inverse=True)
    firsts = known[first[inverse]]
    others = firsts != known
    return firsts[others], known[others]


def near_pictures(facts: PictureFacts) -> tuple[Integers, Integers]:
    """Links between pictures that show nearly the same: other sizes, formats or qualities of one picture.

    Their perceptual hashes (imagehash's pHash: the signs of the low frequencies of a grey picture) differ in a few bits
    at most, and their thumbnails have nearly the same colours, which that hash does not see. Pictures of one colour
    have no low frequencies, and are compared by colours alone.

    Args:
        facts: of P pictures.

    Returns:
        Both ends of each link [L].
    """
    decoded = np.flatnonzero(facts.decoded)
    hashes = np.where(facts.blank, np.uint64(0), facts.hashes)[decoded]
    values, hashed = np.unique(hashes, return_inverse=True)
    left, right = list[int](), list[int]()
    leaders: list[list[int]] = [[] for _ in values]
    for picture, value in zip(decoded.tolist(), hashed.tolist(), strict=True):
        known = leaders[value]
        near = _near(facts, picture, known)
        if near is not None:
            left.append(near)
            right.append(picture)
        elif len(known) < _LEADERS:
            known.append(picture)
    for one, other in _near_hashes(values):
        for picture in leaders[one]:
            near = _near(facts, picture, leaders[other])
            if near is not None:
                left.append(near)
                right.append(picture)
    return np.asarray(left, np.int64), np.asarray(right, np.int64)


def _near(facts: PictureFacts, picture: int, others: list[int]) -> int | None:
    """The first of some pictures whose colours are nearly those of a picture."""
    if not others:
        return None
    apart = np.abs(facts.thumbnails[others].astype(np.int16) - facts.thumbnails[picture]).mean(axis=3)  # [O, 16, 16]
    near = np.flatnonzero((apart.mean(axis=(1, 2)) <= _COLOURS_FAR) & (apart.max(axis=(1, 2)) <= _SPOT_FAR))
    return others[int(near[0])] if len(near) else None


def _near_hashes(values: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs of distinct hashes that differ in few bits."""
    if len(values) < 2:
        return
    codes = values.astype(">u8").view(np.uint8).reshape(-1, 8)
    index: faiss.IndexBinary = faiss.IndexBinaryFlat(64)
    if len(values) > _COMPARED:
        # Two hashes that differ in at most 6 bits agree in one of 7 parts of 9 bits, so that none is missed.
        index = faiss.IndexBinaryMultiHash(64, _FAR + 1, 64 // (_FAR + 1))
    index.add(codes)
    limits, _, places = index.range_search(codes, _FAR + 1)  # up to, and not with, this distance
    found: Integers = np.asarray(limits, np.int64)
    queries = np.repeat(np.arange(len(values)), found[1:] - found[:-1])
    once = queries < places
    yield from zip(queries[once].tolist(), places[once].tolist(), strict=True)
