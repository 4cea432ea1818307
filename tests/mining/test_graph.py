import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.mining import graph as pair_graph
from truepair.mining.graph import FLOOR, PairGraph, agreement_of, with_known


def random_graph(size: int, count: int, seed: int) -> PairGraph:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randint(size, (2, count), generator=generator)
    rows, columns = rows[rows != columns], columns[rows != columns]
    scores = torch.randn(size, size, generator=generator) * 3
    scores = scores + scores.T
    known = torch.rand(size, size, generator=generator) < 0.05
    known = known | known.T
    return PairGraph.of_proposals(size, rows, columns, scores[rows, columns], known[rows, columns])


def dense(graph: PairGraph, values: torch.Tensor) -> torch.Tensor:
    full = torch.zeros(graph.size, graph.size, dtype=values.dtype)
    full[graph.rows, graph.columns] = values
    return full


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), size=st.integers(2, 12), count=st.integers(0, 40))
def test_every_edge_stands_once_in_both_directions(seed: int, size: int, count: int) -> None:
    graph = random_graph(size, count, seed)
    cells = list(zip(graph.rows.tolist(), graph.columns.tolist(), strict=True))
    assert cells == sorted(set(cells)) and all((j, i) in cells for i, j in cells)
    assert [cells[place] for place in graph.reverse.tolist()] == [(j, i) for i, j in cells]
    assert torch.equal(graph.log_odds[graph.reverse], graph.log_odds)
    assert torch.equal(graph.known[graph.reverse], graph.known)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), neighbours=st.integers(1, 4))
def test_the_strongest_edges_are_kept(seed: int, neighbours: int) -> None:
    graph = random_graph(12, 60, seed)
    kept = graph.strongest(neighbours, -2.0)
    best: set[tuple[int, int]] = set()
    for row in range(12):
        own = [
            (float(s), int(c)) for r, c, s in zip(graph.rows, graph.columns, graph.log_odds, strict=True) if r == row
        ]
        for score, column in sorted(own, reverse=True)[:neighbours]:
            if score > -2.0:
                best |= {(row, column), (column, row)}
    assert set(zip(kept.rows.tolist(), kept.columns.tolist(), strict=True)) == best
    assert torch.equal(kept.log_odds, dense(graph, graph.log_odds)[kept.rows, kept.columns])


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 9))
def test_sums_over_neighbours_are_a_product_of_matrices(seed: int, rows: int) -> None:
    graph = random_graph(9, 30, seed)
    left, right = graph.log_odds, graph.log_odds.sigmoid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_graph, "_ROWS", rows)
        one, other = graph.over_neighbours(left, right, left)
    for found, side in ((one, right), (other, left)):
        expected = (dense(graph, left) @ dense(graph, side))[graph.rows, graph.columns]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(graph.row_sums(left), dense(graph, left).sum(dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_what_it_says(seed: int) -> None:
    graph = with_known(random_graph(10, 40, seed)).strongest(6, FLOOR)
    chance, excess = dense(graph, graph.log_odds.sigmoid()), dense(graph, graph.log_odds - FLOOR)
    found = agreement_of(graph)
    for edge, (i, j) in enumerate(zip(graph.rows.tolist(), graph.columns.tolist(), strict=True)):
        others = [k for k in range(10) if k not in (i, j)]
        common = float(sum(chance[i, k] * chance[k, j] for k in others))
        of_i, of_j = (float(sum(chance[end, k] for k in others)) for end in (i, j))
        link_i = float(sum(chance[i, k] * excess[k, j] for k in others)) / (of_i + 0.5)
        link_j = float(sum(chance[j, k] * excess[k, i] for k in others)) / (of_j + 0.5)
        crowd = torch.stack([chance[i].sum(), chance[j].sum()]).log1p().sum()
        own = 0.0 if graph.known[edge] else float(graph.log_odds[edge])
        expected = [
            own,
            torch.tensor(common).log1p(),
            (link_i + link_j) / 2,
            common / (of_i + of_j - common + 0.5),
            crowd,
        ]
        torch.testing.assert_close(found[edge], torch.tensor([float(x) for x in expected]), atol=1e-4, rtol=1e-4)


def test_declared_pairs_are_certain() -> None:
    graph = random_graph(12, 80, 0)
    assert bool(graph.known.any())
    certain = with_known(graph)
    assert bool((certain.log_odds[graph.known] > 7).all())
    assert torch.equal(certain.log_odds[~graph.known], graph.log_odds[~graph.known])


def test_scores_that_differ_in_the_last_bit_leave_no_edge_without_its_reverse() -> None:
    graph = random_graph(8, 30, 1)
    up = graph.rows < graph.columns
    floor = float(graph.log_odds.median())
    graph = graph.scored(torch.where(up, torch.nextafter(graph.log_odds, torch.tensor(9.0)), graph.log_odds))
    kept = graph.strongest(8, floor)
    cells = list(zip(kept.rows.tolist(), kept.columns.tolist(), strict=True))
    assert 0 < len(cells) < len(graph) and all((j, i) in cells for i, j in cells)
