"""Candidate pairs of a table as a sparse symmetric graph, and how their partners agree."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from truepair.data.table import PairTable
from truepair.judges.evidence import EvidenceModel
from truepair.mining.neighbours import nearest, upper_tiles

FLOOR = -9.0  # log-odds of a pair that is no candidate
_KNOWN = 8.0  # log-odds of a declared pair
_MOST_FRIENDS = 50.0  # more common partners than this tell nothing new
_DOUBT = 0.5  # of a partner, so that rows without any have an average
_ROWS = 512  # rows of a product of sparse matrices held at once
_TILE_ROWS, _TILE_COLUMNS = 512, 4096  # of the pairs scored at once


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
        """Place of each edge's other direction [E], which transposing finds without sorting."""
        places = self._matrices(torch.arange(len(self)))[0]
        return torch.from_numpy(places.tocsc().data)

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

    def over_neighbours(self, left: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Of each edge (i, j) the sum over k of left (i, k) times right (k, j), for two right sides at once.

        One and the other are the parts of a complex matrix: the cells of their products with the left are the same, and
        finding them takes longer than computing them. Time O(E * neighbours).

        Args:
            left: float32 [E].
            one: the first right side [E].
            other: the second [E].

        Returns:
            The sums for each right side, float32 [E] each.
        """
        whole, right, edges = self._matrices(left.to(torch.complex64), torch.complex(one, other), torch.ones(len(self)))
        sums = np.zeros(len(self), np.complex64)
        for start in range(0, self.size, _ROWS):
            stop = min(start + _ROWS, self.size)
            first, last = int(edges.indptr[start]), int(edges.indptr[stop])
            found = (whole[start:stop] @ right).multiply(edges[start:stop]).tocoo()  # without the cells of sum 0
            keys = (found.row + np.int64(start)) * self.size + found.col
            asked = self.rows[first:last].numpy() * self.size + self.columns[first:last].numpy()  # in order
            sums[first + np.searchsorted(asked, keys)] = found.data
        parts = torch.view_as_real(torch.from_numpy(sums))
        return parts[:, 0].contiguous(), parts[:, 1].contiguous()

    def _matrices(self, *values: Tensor) -> list[csr_array]:
        """The matrices [N, N] of some edge values [E]; they share their places."""
        starts = torch.searchsorted(self.rows, torch.arange(self.size + 1)).numpy()
        narrow = np.int32 if max(self.size, len(self)) < 2**31 else np.int64  # as scipy would have it, but once for all
        columns, starts = self.columns.numpy().astype(narrow), starts.astype(narrow)
        return [csr_array((each.numpy(), columns, starts), shape=(self.size, self.size)) for each in values]


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


class _Best:
    """The best cells of each of N rows among those offered so far.

    Args:
        size: N.
        count: cells of a row.
    """

    def __init__(self, size: int, count: int) -> None:
        self.count = count
        self.columns = torch.full((size, count), -1)  # -1 where less was offered
        self.scores = torch.zeros(size, count)
        self.ranks = torch.full((size, count), -torch.inf)

    def offer(self, rows: slice, start: int, scores: Tensor, ranks: Tensor) -> None:
        """Take the best of some cells.

        Args:
            rows: R rows.
            start: the first of M columns.
            scores: of the cells [R, M].
            ranks: by which they are chosen, the highest first; -inf for never [R, M].
        """
        ranks, place = torch.cat([self.ranks[rows], ranks], dim=1).topk(self.count, dim=1)
        new, old, there = place >= self.count, place.clamp(max=self.count - 1), (place - self.count).clamp(min=0)
        self.scores[rows] = torch.where(new, scores.gather(1, there), self.scores[rows].gather(1, old))
        self.columns[rows] = torch.where(new, there + start, self.columns[rows].gather(1, old))
        self.ranks[rows] = ranks


def graph_of(log_odds: Callable[[Tensor, Tensor], Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """The best candidates of each row, out of all pairs; each pair is scored once, for both of its directions.

    Args:
        log_odds: of rows [R] with columns [M], [R, M]; the same for (i, j) and (j, i).
        declared: what is known of the N rows; known pairs come first.
        neighbours: how many of each row.
    """
    size = len(declared)
    best = _Best(size, min(neighbours, size - 1))
    every = torch.arange(size)
    for here, there, new in upper_tiles(size, _TILE_ROWS, _TILE_COLUMNS):
        rows, columns = every[here], every[there]
        scores = log_odds(rows, columns)  # [R, M]
        ranks = scores.masked_fill(declared.known(rows[:, None], columns), torch.inf)
        ranks.masked_fill_(rows[:, None] == columns, -torch.inf)
        best.offer(here, there.start, scores, ranks)
        if new < there.stop:
            others = slice(new - there.start, None)
            best.offer(slice(new, there.stop), here.start, scores[:, others].T, ranks[:, others].T)
    found = best.columns >= 0
    rows, columns = every[:, None].expand_as(found)[found], best.columns[found]
    return PairGraph.of_proposals(size, rows, columns, best.scores[found], declared.known(rows, columns))


def exact_graph(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """Candidates out of all pairs of a table, each scored; time O(N^2), memory O(N * neighbours).

    Args:
        model: Scores pairs.
        spaces: Features of the table in the model's spaces, by name [N, width].
        declared: What the table declares about its N pairs.
        neighbours: Most candidates of a pair.
    """
    return graph_of(lambda rows, columns: model.log_odds(spaces, rows, columns), declared, neighbours)


def searched_graph(
    model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int
) -> tuple[PairGraph, float]:
    """Candidates by neighbour search among images and captions; the proposed pairs alone are scored.

    The learned metrics of images and captions propose, each as much: memory O(N (width + neighbours)).

    Args:
        model: scores pairs.
        spaces: features of the table in the model's spaces, by name [N, width].
        declared: what the table declares about its N pairs.
        neighbours: how many are proposed for each row.

    Returns:
        The candidates, and the share of the true nearest that the search found.
    """
    size = len(declared)
    vectors = torch.cat([spaces["image"], spaces["text"]], dim=1)  # [N, A + B]
    near = nearest(vectors, neighbours + 1, exact=0)
    found = near.places  # [N, neighbours + 1], -1 for none
    rows = torch.arange(size)[:, None].expand_as(found)
    proposed = (found >= 0) & (found != rows)
    first, last = torch.minimum(rows, found)[proposed], torch.maximum(rows, found)[proposed]
    keys = (first * size + last).unique()  # many are proposed from both ends
    rows, columns = keys // size, keys % size
    scores = model.edge_log_odds(spaces, rows, columns)
    return PairGraph.of_proposals(size, rows, columns, scores, declared.known(rows, columns)), near.recall


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
    common, excess = graph.over_neighbours(chance, chance, graph.log_odds - FLOOR)
    link = excess / (others + _DOUBT)
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
