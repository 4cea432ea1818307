import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.judges.test_evidence import CONFIG, all_pairs, average_precision, made_up
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.judges import evidence
from truepair.judges.evidence import TERMS, EvidenceModel, EvidenceTables
from truepair.judges.evidence_fit import fit_evidence
from truepair.mining.graph import Declared, PairGraph, exact_graph, searched_graph
from truepair.mining.mine import MiningConfig, mine_pairs
from truepair.mining.refinement import Refinement, RefinementConfig, cross_fitted, fit_refinement

REFINEMENT = RefinementConfig(neighbours=16)


@pytest.fixture(scope="module")
def judge() -> tuple[EvidenceModel, Refinement]:
    clean, tables = made_up(80, seed=1)
    model = fit_evidence(tables, clean, CONFIG)
    return model, fit_refinement(model, tables, clean, evidence=CONFIG, config=REFINEMENT)


def scores_of(graph: PairGraph, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    full = torch.full((graph.size, graph.size), -30.0)
    full[graph.rows, graph.columns] = graph.log_odds
    return full[left, right]


@pytest.mark.parametrize("dual", [False, True])
def test_all_pairs_by_products_of_matrices_are_those_one_by_one(dual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, clean_tables = made_up(40, seed=1, dual=dual)
    model = fit_evidence(clean_tables, clean, CONFIG)
    _, tables = made_up(12, seed=2, dual=dual)
    spaces = model.spaces.project(tables)
    rows, columns = torch.arange(5, 20), torch.arange(60)
    monkeypatch.setattr(evidence, "_COLUMNS", 7)
    monkeypatch.setattr(evidence, "_EDGES", 11)
    grid, some = model.log_odds(spaces, rows, columns), columns[3::2]
    for i, row in enumerate(rows):
        here = row.expand(60)
        there = model.score(spaces, here, columns).logit() + model.score(spaces, columns, here).logit()
        torch.testing.assert_close(grid[i], there / 2, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(model.edge_log_odds(spaces, here, columns), grid[i], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.log_odds(spaces, rows, some), grid[:, some], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("term", sorted(TERMS))
def test_a_term_alone_counts_in_both_directions(term: str) -> None:
    clean, clean_tables = made_up(40, seed=1, dual=True)
    whole = fit_evidence(clean_tables, clean, CONFIG)
    model = replace(whole, terms=(term,), centre=torch.ones(2), spread=torch.full((2,), 2.0))
    model = replace(model, weights=torch.tensor([3.0, -1.0, 0.5]))
    spaces = model.spaces.project(clean_tables)
    one, other = (spaces[name] for name in TERMS[term])
    cosines = one @ other.T  # [N, N]
    there = 3.0 * (cosines - 1) / 2 - 1.0 * (cosines**2 - 1) / 2 + 0.5
    expected = (there + there.T) / 2
    torch.testing.assert_close(
        model.log_odds(spaces, torch.arange(200), torch.arange(200)), expected, atol=1e-4, rtol=1e-4
    )


def test_projections_are_those_of_all_rows_at_once(
    judge: tuple[EvidenceModel, Refinement], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tables = made_up(20, seed=2)
    spaces = judge[0].spaces
    monkeypatch.setattr(evidence, "_PROJECTED", 7)
    found = spaces.project(tables)
    images, texts = tables.images - spaces.image_mean, tables.texts - spaces.text_mean
    for name, expected in (
        ("image", images @ spaces.image_metric),
        ("text", texts @ spaces.text_metric),
        ("caption", texts),
        ("predicted", images @ spaces.cross_map),
    ):
        torch.testing.assert_close(found[name], F.normalize(expected, dim=1), atol=1e-5, rtol=1e-4)


def test_refinement_of_some_edges_at_a_time_is_that_of_all(
    judge: tuple[EvidenceModel, Refinement], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, tables = made_up(20, seed=5)
    model, refinement = judge
    graph = exact_graph(model, model.spaces.project(tables), Declared.of_table(table), 6)
    whole = refinement.refine(graph)
    monkeypatch.setattr("truepair.mining.refinement._EDGES", 13)
    parts = refinement.refine(graph)
    assert torch.equal(parts.rows, whole.rows) and torch.equal(parts.columns, whole.columns)
    torch.testing.assert_close(parts.log_odds, whole.log_odds, atol=1e-4, rtol=1e-4)


def test_partners_of_partners_find_more(judge: tuple[EvidenceModel, Refinement]) -> None:
    table, tables = made_up(70, seed=2)
    model, refinement = judge
    left, right, labels = all_pairs(table)
    graph = exact_graph(model, model.spaces.project(tables), Declared.of_table(table), 16)
    before = average_precision(scores_of(graph, left, right), labels)
    after = average_precision(scores_of(refinement.refine(graph), left, right), labels)
    assert after > before + 0.05


def test_mined_pairs_are_right_as_often_as_they_say(judge: tuple[EvidenceModel, Refinement]) -> None:
    table, tables = made_up(70, seed=3)
    declared, truth = Declared.of_table(table), Truth.from_table(table)
    assert truth is not None
    mined = mine_pairs(*judge, tables, declared, MiningConfig(low=0.3))
    right = truth.matches(mined.rows, declared.caption_keys[mined.columns]).float()
    assert len(mined) > 100
    assert float(right.mean()) == pytest.approx(float(mined.values.mean()), abs=0.12)
    assert not bool(declared.known(mined.rows, mined.columns).any())
    sure = mined.where(mined.values >= 0.8)
    assert 0 < len(sure) < len(mined) and float(sure.values.min()) >= 0.8
    cells = set(zip(mined.rows.tolist(), mined.columns.tolist(), strict=True))
    assert len(cells) == len(mined) and all((j, i) in cells for i, j in cells)


def test_neighbour_search_proposes_what_all_pairs_would(judge: tuple[EvidenceModel, Refinement]) -> None:
    table, tables = made_up(70, seed=4)
    declared = Declared.of_table(table)
    exact = mine_pairs(*judge, tables, declared)
    lines: list[str] = []
    searched = mine_pairs(*judge, tables, declared, MiningConfig(exact_rows=10), lines.append)
    assert len(lines) == 1 and lines[0].startswith("of 350 rows, those that neighbour search proposed are scored: ")
    cells = [set(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) for found in (exact, searched)]
    assert len(cells[0] & cells[1]) > 0.8 * len(cells[0])
    graph, recall = searched_graph(judge[0], judge[0].spaces.project(tables), declared, 16)
    assert recall >= 0.95
    full = judge[0].log_odds(judge[0].spaces.project(tables), torch.arange(350), torch.arange(350))
    torch.testing.assert_close(graph.log_odds, full[graph.rows, graph.columns], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("tile", [(1024, 4096), (7, 13), (30, 8), (1, 1)])
def test_candidates_are_the_best_of_each_row_and_known_pairs_first(
    judge: tuple[EvidenceModel, Refinement], tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.mining.graph._TILE_ROWS", tile[0])
    monkeypatch.setattr("truepair.mining.graph._TILE_COLUMNS", tile[1])
    table, tables = made_up(20, seed=5)
    declared = Declared.of_table(table)
    model, spaces = judge[0], judge[0].spaces.project(tables)
    graph = exact_graph(model, spaces, declared, 6)
    full = model.log_odds(spaces, torch.arange(100), torch.arange(100))
    edges = set(zip(graph.rows.tolist(), graph.columns.tolist(), strict=True))
    captions = [row[0] for row in table.rows["captions"]]
    for row in range(100):
        others = [column for column in range(100) if column != row]
        others.sort(key=lambda column: (captions[column] != captions[row], -float(full[row, column])))
        assert all((row, column) in edges for column in others[:6])
    expected = {(row, column) for row, column in edges if (column, row) in edges}
    assert edges == expected and len(edges) == len(graph) <= 2 * 6 * 100
    torch.testing.assert_close(graph.log_odds, full[graph.rows, graph.columns], atol=1e-4, rtol=1e-4)
    assert graph.known.tolist() == [captions[i] == captions[j] for i, j in zip(graph.rows, graph.columns, strict=True)]


def test_no_score_is_from_spaces_that_knew_a_concept_of_the_pair() -> None:
    clean, tables = made_up(24, seed=1)
    model, groups = fit_evidence(tables, clean, CONFIG), list(clean.rows["group"])
    config = RefinementConfig(folds=4)
    before = cross_fitted(model, tables, groups, CONFIG, config)
    assert torch.equal(before, before.T)
    numbers = torch.arange(24).repeat_interleave(5)
    generator = torch.Generator().manual_seed(config.seed)
    fold = (torch.randperm(24, generator=generator) % 4)[numbers]
    for one, other in ((0, 0), (1, 3), (2, 3)):
        rows, columns = ((fold == part).nonzero()[:, 0] for part in (one, other))
        left_out = other if one != other else 1  # a fold alone: with the first other fold
        seen = ((fold != one) & (fold != left_out)).nonzero()[:, 0]
        spaces = CONFIG.spaces(tables.rows(seen), numbers[seen]).project(tables)
        expected = model.log_odds(spaces, rows, columns)
        torch.testing.assert_close(before[rows[:, None], columns], expected, atol=1e-3, rtol=1e-3)


def test_scores_are_lowered_for_a_larger_table(judge: tuple[EvidenceModel, Refinement]) -> None:
    table, tables = made_up(60, seed=6)
    model, refinement = judge
    graph = exact_graph(model, model.spaces.project(tables), Declared.of_table(table), 16)
    same_size = replace(refinement, clean_pairs=300)
    expected = same_size.refine(graph.scored(graph.log_odds + math.log(399 / 299)))
    found = refinement.refine(graph)
    assert torch.equal(found.rows, expected.rows)
    torch.testing.assert_close(found.log_odds, expected.log_odds, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(found.log_odds.mean(), same_size.refine(graph).log_odds.mean(), atol=1e-3)


def test_it_is_saved_and_loaded(judge: tuple[EvidenceModel, Refinement], tmp_path: Path) -> None:
    judge[1].save(tmp_path / "judge")
    loaded = Refinement.load(tmp_path / "judge")
    assert loaded.fingerprint == judge[1].fingerprint
    assert (loaded.neighbours, loaded.clean_pairs) == (16, 400)
    with pytest.raises(CheckpointError, match="holds no refinement"):
        Refinement.load(tmp_path)


def test_what_cannot_be_mined_is_named(judge: tuple[EvidenceModel, Refinement]) -> None:
    table, tables = made_up(20, seed=5)
    strange = EvidenceTables(tables.images, tables.texts, "others")
    with pytest.raises(CheckpointError, match="other encoders"):
        mine_pairs(*judge, strange, Declared.of_table(table))
    with pytest.raises(DataError, match="too few"):
        fit_refinement(judge[0], tables, table, evidence=CONFIG, config=RefinementConfig(folds=12))
    with pytest.raises(ConfigError, match="0 < low <= high"):
        MiningConfig(low=0.9)
    for wrong in ({"rounds": 0}, {"neighbours": 0}, {"folds": 2}):
        with pytest.raises(ConfigError):
            RefinementConfig(**wrong)
