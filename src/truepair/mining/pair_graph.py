"""Candidate pairs of a table as a sparse symmetric graph."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

_ROWS = 4096  # rows of a product of sparse matrices held at once


@dataclass(frozen=True)
class PairGraph:
    """Which pairs of a table may show the same, and how likely. Every edge stands in both directions.

    Attributes:
        size: N, pairs of the table.
        rows: one end of each edge, int64 [E]; edges are ordered by row and column.
        columns: the other end [E].
        log_odds: of the two ends showing the same [E], float32.
        known: whether that is declared: one image id or one caption text, bool [E].
    """

    size: int
    rows: Tensor
    columns: Tensor
    log_odds: Tensor
    known: Tensor

    @classmethod
    def of_proposals(cls, size: int, rows: Tensor, columns: Tensor, log_odds: Tensor, known: Tensor) -> Self:
        """Make a graph of proposed cells, each in one direction or both; no own pairs, equal scores for both."""
        keys = torch.cat([rows * size + columns, columns * size + rows])
        keys, place = keys.sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        keys, source = keys[first], place[first] % max(len(rows), 1)
        return cls(size, keys // size, keys % size, log_odds[source], known[source])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def reverse(self) -> Tensor:
        """Place of each edge's other direction [E]."""
        return (self.columns * self.size + self.rows).argsort()

    def scored(self, log_odds: Tensor) -> "PairGraph":
        """The same edges with other scores."""
        return PairGraph(self.size, self.rows, self.columns, log_odds, self.known)

    def strongest(self, neighbours: int, floor: float) -> "PairGraph":
        """The edges above a floor that are among the strongest of one of their ends at least."""
        order = self.log_odds.argsort(descending=True, stable=True)
        order = order[self.rows[order].argsort(stable=True)]  # by row, the strongest first
        starts = torch.searchsorted(self.rows, torch.arange(self.size))  # [N]
        rank = torch.empty_like(self.rows)
        rank[order] = torch.arange(len(self)) - starts[self.rows]
        near = rank < neighbours
        above = self.log_odds > floor
        reverse = self.reverse  # both directions stay or go, though their scores may differ in the last bit
        kept = ((near | near[reverse]) & above & above[reverse]).nonzero()[:, 0]
        return PairGraph(self.size, self.rows[kept], self.columns[kept], self.log_odds[kept], self.known[kept])

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums of edge values over the edges of each row [N]."""
        return torch.zeros(self.size, dtype=values.dtype).index_add(0, self.rows, values)

    def over_neighbours(self, left: Tensor, right: Tensor) -> Tensor:
        """Of each edge (i, j) the sum over k of left (i, k) times right (k, j) [E]; time O(E * neighbours)."""
        with torch.sparse.check_sparse_tensor_invariants(False), warnings.catch_warnings():  # edges are in order
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            whole = self._matrix(0, self.size, right)
            parts = range(0, self.size, _ROWS)
            return torch.cat([self._product(start, min(start + _ROWS, self.size), left, whole) for start in parts])

    def _product(self, start: int, stop: int, left: Tensor, whole: Tensor) -> Tensor:
        """Values of a product of two matrices at the edges of some rows."""
        product = torch.sparse.mm(self._matrix(start, stop, left), whole).coalesce()
        rows, columns = product.indices()
        keys = torch.cat([(rows + start) * self.size + columns, torch.tensor([self.size**2])])  # in order
        first, last = self._edges(start, stop)
        asked = self.rows[first:last] * self.size + self.columns[first:last]
        place = torch.searchsorted(keys, asked)
        values = torch.cat([product.values(), torch.zeros(1)])
        return torch.where(keys[place] == asked, values[place], 0.0)

    def _matrix(self, start: int, stop: int, values: Tensor) -> Tensor:
        """Some rows of the matrix of edge values, sparse [stop - start, N]."""
        first, last = self._edges(start, stop)
        cells = torch.stack([self.rows[first:last] - start, self.columns[first:last]])
        return torch.sparse_coo_tensor(cells, values[first:last], (stop - start, self.size), is_coalesced=True)

    def _edges(self, start: int, stop: int) -> tuple[int, int]:
        """First edge of a row, and of another."""
        first, last = torch.searchsorted(self.rows, torch.tensor([start, stop])).tolist()
        return first, last
