"""The nearest of many vectors: all of them compared, or by an inverted file that finds nearly all, as is measured."""

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

EXACT = 30_000
"""Up to so many vectors all are compared."""

_PROBED = 16  # cells of the inverted file that each query looks into at first
_ASKED = 1000  # queries that measure its recall
_ENOUGH = 0.95  # share of the true nearest that it must find
_SLOWER = 8  # a vector in a cell takes as long as so many do where all are compared (measured: 7.7 to 9.4)
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


def nearest(queries: Tensor, vectors: Tensor, count: int, *, exact: int = EXACT) -> Neighbours:
    """The nearest vectors of each query by inner product.

    Args:
        queries: float32 [Q, D].
        vectors: float32 [V, D].
        count: how many of each query, at most V.
        exact: up to so many vectors all are compared, which takes time Q * V * D; of more, an inverted file of faiss
            compares those in the cells nearest to the query. It looks into as many as find 95 % of the true nearest of
            1,000 queries; where that takes longer than to compare all, all are compared.
    """
    asked, known = queries.contiguous().numpy(), vectors.contiguous().numpy()
    count = min(count, len(known))
    flat = faiss.IndexFlatIP(known.shape[1])
    flat.add(known)
    if len(known) <= exact:
        return _found(*_search(flat, asked, count))
    cells = round(len(known) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(known.shape[1]), known.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 64
    index.cp.min_points_per_centroid = 1  # no warning where few are searched
    index.cp.seed = 0
    index.train(known)
    index.add(known)
    some = asked[np.random.default_rng(0).choice(len(asked), min(_ASKED, len(asked)), replace=False)]
    _, right = _search(flat, some, count)
    index.nprobe = min(_PROBED, cells)
    while (recall := _share(_search(index, some, count)[1], right)) < _ENOUGH:
        index.nprobe *= 2
        if index.nprobe * _SLOWER > cells:
            return _found(*_search(flat, asked, count))
    return _found(*_search(index, asked, count), recall)


def _share(found: np.ndarray, right: np.ndarray) -> float:
    """Share of the true nearest [Q, n] that are among those found [Q, n]."""
    hits = [len(np.intersect1d(of_index, true)) for of_index, true in zip(found, right, strict=True)]
    return float(np.sum(hits)) / right.size


def _search(index: faiss.Index, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [index.search(queries[start : start + _AT_ONCE], count) for start in range(0, len(queries), _AT_ONCE)]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([places for _, places in parts])


def _found(scores: np.ndarray, places: np.ndarray, recall: float = 1.0) -> Neighbours:
    found = torch.from_numpy(places)
    return Neighbours(found, torch.from_numpy(scores).masked_fill(found < 0, -torch.inf), recall)
