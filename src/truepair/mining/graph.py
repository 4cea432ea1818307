"""Candidate pairs of a table as a sparse symmetric graph, and how their partners agree."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import faiss
import numpy as np
import torch
from torch import Tensor

from truepair.data.table import PairTable
from truepair.judges.evidence import EvidenceModel

FLOOR = -9.0  # log-odds of a pair that is no candidate
_KNOWN = 8.0  # log-odds of a declared pair
_MOST_FRIENDS = 50.0  # more common partners than this tell nothing new
_DOUBT = 0.5  # of a partner, so that rows without any have an average
_ROWS = 4096  # rows of a product of sparse matrices held at once
_ROWS_SCORED = 256  # rows scored at once
_PROBED = 16  # cells of the index searched for each row
_PAIRS = 65_536  # proposed pairs scored at once


@dataclass(frozen=True)
class PairGraph:
    """Which pairs of a table may show the same, and how likely.

    More than a ``PairSet``: every edge stands in both directions, sorted, with the place of its reverse, so that
    neighbours of neighbours are products of sparse matrices; and an edge knows whether it is declared.

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
        """Make a graph of P proposed cells [P], each in one direction or both; no own pairs, equal scores for both."""
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
        """The same edges with other scores [E]."""
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


@dataclass(frozen=True)
class Declared:
    """What everyone knows about the rows of a table: pairs of one picture or one caption text match.

    Attributes:
        image_ids: of the pictures, int64 [N]; copies share one.
        caption_keys: key of each row's first caption [N].
    """

    image_ids: Tensor
    caption_keys: Tensor

    @classmethod
    def of_table(cls, table: PairTable) -> "Declared":
        """Read them off a table."""
        keys = torch.tensor([table.caption_key(captions[0]) for captions in table.values("captions")])
        return cls(torch.from_numpy(table.picture_keys.copy()), keys)

    def __len__(self) -> int:
        return len(self.image_ids)

    def known(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether cells are declared; shapes are broadcast."""
        same_image = self.image_ids[rows] == self.image_ids[columns]
        return same_image | (self.caption_keys[rows] == self.caption_keys[columns])


def graph_of(log_odds: Callable[[Tensor], Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """The best candidates of each row, out of all pairs.

    Args:
        log_odds: of rows [R] with all rows, [R, N]; the same for (i, j) and (j, i).
        declared: what is known of the N rows; known pairs come first.
        neighbours: how many of each row.
    """
    size = len(declared)
    parts = []
    for rows in torch.arange(size).split(_ROWS_SCORED):
        scores = log_odds(rows).clone()  # [R, N]
        known = declared.known(rows[:, None], torch.arange(size))
        ranking = scores.masked_fill(known, torch.inf)
        ranking[torch.arange(len(rows)), rows] = -torch.inf
        best = ranking.topk(min(neighbours, size - 1), dim=1).indices  # [R, neighbours]
        of_row = rows[:, None].expand_as(best).flatten()
        parts.append((of_row, best.flatten(), scores.gather(1, best).flatten(), known.gather(1, best).flatten()))
    rows, columns, scores, known = (torch.cat(column) for column in zip(*parts, strict=True))
    return PairGraph.of_proposals(size, rows, columns, scores, known)


def exact_graph(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """Candidates out of all pairs of a table, each scored; time O(N^2), memory O(N * neighbours).

    Args:
        model: Scores pairs.
        spaces: Features of the table in the model's spaces, by name [N, width].
        declared: What the table declares about its N pairs.
        neighbours: Most candidates of a pair.
    """
    every = torch.arange(len(declared))
    return graph_of(lambda rows: model.log_odds(spaces, rows, every), declared, neighbours)


def searched_graph(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """Candidates by neighbour search among images and captions [N, width]; the proposed pairs alone are scored.

    An inverted file over the learned metrics of images and captions proposes: memory O(N (width + neighbours)), time
    about O(N^1.5).
    """
    size = len(declared)
    vectors = torch.cat([spaces["image"], spaces["text"]], dim=1).numpy().astype(np.float32)  # [N, A + B]
    cells = max(round(size**0.5), 1)
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning on small tables
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(_PROBED, cells)
    found = torch.from_numpy(index.search(vectors, min(neighbours + 1, size))[1])  # [N, neighbours + 1], -1 for none
    rows = torch.arange(size)[:, None].expand_as(found)
    proposed = (found >= 0) & (found != rows)
    rows, columns = rows[proposed], found[proposed]
    scores = [
        (model.edge_log_odds(spaces, left, right) + model.edge_log_odds(spaces, right, left)) / 2
        for left, right in zip(rows.split(_PAIRS), columns.split(_PAIRS), strict=True)
    ]
    return PairGraph.of_proposals(size, rows, columns, torch.cat(scores), declared.known(rows, columns))


def with_known(graph: PairGraph) -> PairGraph:
    """The graph with declared pairs as good as certain."""
    return graph.scored(torch.where(graph.known, _KNOWN, graph.log_odds))


def agreement_of(graph: PairGraph) -> Tensor:
    """Evidence on each edge (i, j) from the edges around it, the same in both directions, float32 [E, 5].

    With p the probability of an edge, a partner of i being any k with an edge (i, k), the columns are:

    * the log-odds of the edge itself;
    * common partners: log (1 + sum_k p_ik p_kj);
    * average link: how sure, on average, j is about the other partners of i, and i about those of j;
    * common partners among all other partners of either (Jaccard);
    * how many partners both have: crowded places hold more false ones.
    """
    chance = graph.log_odds.sigmoid()  # [E]
    partners = graph.row_sums(chance)  # [N]
    others = partners[graph.rows] - chance  # [E] partners of i without j
    common = graph.over_neighbours(chance, chance)
    link = graph.over_neighbours(chance, graph.log_odds - FLOOR) / (others + _DOUBT)
    either = others + others[graph.reverse] - common + _DOUBT
    crowd = partners.log1p()
    columns = [
        graph.log_odds.masked_fill(graph.known, 0.0),
        common.clamp(max=_MOST_FRIENDS).log1p(),
        (link + link[graph.reverse]) / 2,
        common / either,
        crowd[graph.rows] + crowd[graph.columns],
    ]
    return torch.stack(columns, dim=1)
