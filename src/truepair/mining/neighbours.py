"""The nearest of many vectors: all of them compared, or by an inverted file that finds nearly all, as is measured."""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

EXACT = 30_000
"""Up to so many vectors all are compared."""

_TILE = 1024  # vectors of either side that are compared at once

_PROBED = 16  # cells of the inverted file that each query looks into at first
_ASKED = 1000  # queries that measure its recall
_ENOUGH = 0.95  # share of the true nearest that it must find
_SLOWER = 16  # a vector in a cell takes as long as so many do where all are compared, each pair for both of its ends
_AT_ONCE = 4096


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of each of Q queries, the nearest first.

    Attributes:
        places: numbers of the vectors, int64 [Q, n]; -1 where there are no more.
        scores: inner products, float32 [Q, n]; -inf where there are no more.
        recall: share of the true nearest that were found, measured on some queries; 1 where all were compared.
    """

    places: Tensor
    scores: Tensor
    recall: float = 1.0


class _Heaps:
    """The nearest of each of N vectors among those offered so far.

    Args:
        size: N.
        count: how many of each.
    """

    def __init__(self, size: int, count: int) -> None:
        self._scores = np.empty((size, count), np.float32)
        self._places = np.empty((size, count), np.int64)
        self._heaps = faiss.float_minheap_array_t()
        self._heaps.nh, self._heaps.k = size, count
        self._heaps.val, self._heaps.ids = faiss.swig_ptr(self._scores), faiss.swig_ptr(self._places)
        self._heaps.heapify()

    def offer(self, first: int, start: int, scores: Floats) -> None:
        """Take the nearest of M vectors from ``start`` on, for R of them from ``first`` on, scores [R, M]."""
        size, numbers = scores.shape[1], faiss.swig_ptr(scores)
        self._heaps.addn(size, numbers, start, first, len(scores))  # type: ignore[call-arg]  # its stub lacks some

    def neighbours(self) -> Neighbours:
        """What was found; nothing can be offered after it."""
        self._heaps.reorder()
        return _neighbours(self._scores, self._places)


def nearest(vectors: Tensor, count: int, *, exact: int = EXACT) -> Neighbours:
    """The nearest of some vectors to each of them by inner product, itself among them.

    Args:
        vectors: float32 [V, D].
        count: how many of each; all where there are fewer.
        exact: up to so many vectors all are compared, which takes time V * V * D / 2; of more, an inverted file of
            faiss compares those in the cells nearest to each. It looks into as many as find 95 % of the true nearest of
            1,000; where that takes longer than to compare all, all are compared.
    """
    count = min(count, len(vectors))
    known = vectors.contiguous().numpy()
    searched = None if len(known) <= exact else _searched(known, known, count)
    if searched is not None:
        return searched
    found = _Heaps(len(known), count)
    for rows, columns, new in upper_tiles(len(known), _TILE, _TILE):
        scores = known[rows] @ known[columns].T
        found.offer(rows.start, columns.start, scores)
        if new < columns.stop:
            found.offer(new, rows.start, _turned(scores[:, new - columns.start :]))
    return found.neighbours()


def nearest_both(
    left: Tensor, right: Tensor, of_left: int, of_right: int, *, exact: int = EXACT
) -> tuple[Neighbours, Neighbours]:
    """The nearest right vectors of each left one and the nearest left ones of each right one, by inner product.

    Args:
        left: float32 [L, D].
        right: float32 [R, D].
        of_left: how many of each left one; all where there are fewer.
        of_right: how many of each right one.
        exact: up to so many vectors on either side all pairs are compared, once for both directions; of more, inverted
            files are searched as :func:`nearest` does.
    """
    here, there = left.contiguous().numpy(), right.contiguous().numpy()
    of_left, of_right = min(of_left, len(there)), min(of_right, len(here))
    if max(len(here), len(there)) > exact:
        searched = _searched(here, there, of_left)
        back = None if searched is None else _searched(there, here, of_right)
        if searched is not None and back is not None:
            return searched, back
    found, found_back = _Heaps(len(here), of_left), _Heaps(len(there), of_right)
    for first in range(0, len(here), _TILE):
        for start in range(0, len(there), _TILE):
            scores = here[first : first + _TILE] @ there[start : start + _TILE].T
            found.offer(first, start, scores)
            found_back.offer(start, first, _turned(scores))
    return found.neighbours(), found_back.neighbours()


def upper_tiles(size: int, height: int, width: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield rows, columns, and the first of these columns that is not among the rows.

    They cover a square from its diagonal on: what is computed of a tile serves its rows, and the other way round its
    columns from that one on.

    Args:
        size: N rows and columns.
        height: rows of a tile.
        width: columns of a tile.
    """
    for top in range(0, size, height):
        below = min(top + height, size)
        for left in range(top, size, width):
            yield slice(top, below), slice(left, min(left + width, size)), max(below, left)


def _turned(scores: Floats) -> Floats:
    """Scores the other way round, one row after the other; torch copies them faster than numpy."""
    turned: Floats = torch.from_numpy(scores).T.contiguous().numpy()
    return turned


def _searched(asked: Floats, known: Floats, count: int) -> Neighbours | None:
    """What an inverted file finds; None where it would take longer than to compare all.

    Args:
        asked: [Q, D].
        known: [V, D].
        count: how many of each query.
    """
    cells = round(len(known) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(known.shape[1]), known.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 64
    index.cp.min_points_per_centroid = 1  # no warning where few are searched
    index.cp.seed = 0
    index.train(known)
    index.add(known)
    some = asked[np.random.default_rng(0).choice(len(asked), min(_ASKED, len(asked)), replace=False)]
    _, right = faiss.knn(some, known, count, metric=faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(_PROBED, cells)
    while (recall := _share(index.search(some, count)[1], right)) < _ENOUGH:
        index.nprobe *= 2
        if index.nprobe * _SLOWER > cells:
            return None
    parts = [index.search(asked[start : start + _AT_ONCE], count) for start in range(0, len(asked), _AT_ONCE)]
    scores, places = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _neighbours(scores, places, recall)


def _share(found: Integers, right: Integers) -> float:
    """Share of the true nearest [Q, n] that are among those found [Q, n]."""
    hits = [len(np.intersect1d(of_index, true)) for of_index, true in zip(found, right, strict=True)]
    return float(np.sum(hits)) / right.size


def _neighbours(scores: Floats, places: Integers, recall: float = 1.0) -> Neighbours:
    found = torch.from_numpy(places)
    return Neighbours(found, torch.from_numpy(scores).masked_fill(found < 0, -torch.inf), recall)
