from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.study.study_rows import GAINS, study_rows, study_table
from truepair.tasks.study.ranking import ranking_agreement, spearman
from truepair.tasks.study.table import StudyTable


def slow_ranks(values):
    """Places from 1; equal values share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=9))
def test_spearman_is_the_correlation_of_places(pairs):
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = float(spearman(np.array(first), np.array(second)))
    x, y = slow_ranks(first), slow_ranks(second)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_spearman_of_a_stack_is_that_of_each_row():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 8))
    assert spearman(x, y).tolist() == pytest.approx([float(spearman(a, b)) for a, b in zip(x, y, strict=True)])


def test_swapped_arms_are_those_in_other_order():
    table = study_table()
    found = ranking_agreement(table, "7 drawings", "held_out")
    means = {
        figure: {arm: table.mean(arm, "7 drawings", "held_out", figure) for arm in GAINS}
        for figure in ("retrieval_score", "naive")
    }
    swapped = {
        frozenset(pair)
        for pair in combinations(GAINS, 2)
        if (means["retrieval_score"][pair[0]] - means["retrieval_score"][pair[1]])
        * (means["naive"][pair[0]] - means["naive"][pair[1]])
        < 0
    }
    assert {frozenset((swap.better, swap.worse)) for swap in found.swaps} == swapped
    assert all(means["retrieval_score"][swap.better] > means["retrieval_score"][swap.worse] for swap in found.swaps)
    clear = [(swap.better, swap.worse) for swap in found.swaps if swap.clear]
    assert ("SRCL good seed", "S-ITC 0.3") in clear
    assert next(iter(found.aware)) == next(iter(found.naive)) == "oracle relabel"
    assert list(found.naive.values()) == sorted(means["naive"].values(), reverse=True)
    assert found.pairs == 36
    assert found.cells == 15
    assert found.correlation.value == pytest.approx(spearman(*(np.array([*means[f].values()]) for f in means)))
    assert found.correlation.low <= found.correlation.value <= found.correlation.high < 1


def test_what_the_truth_tells_apart_and_naive_figures_do_not():
    found = ranking_agreement(study_table(noise=0.01), "7 drawings", "held_out")
    assert found.told == found.pairs
    swapped = [pair for pair in combinations(GAINS.values(), 2) if np.prod(np.subtract(*pair)) < 0]
    assert found.unseen == len(found.swaps) == len(swapped) > 0


def test_arms_that_are_not_finished_are_left_out_and_named():
    rows = [row for row in study_rows() if row["arm"] != "GRIT" or row["seed"] == 3]
    found = ranking_agreement(StudyTable(rows, list(GAINS)), "7 drawings", "held_out")
    assert found.left_out == ["GRIT"]
    assert "GRIT" not in found.aware
    assert found.cells == 15


def test_arms_with_fewer_seeds_are_ranked_on_the_seeds_that_all_have():
    rows = [row for row in study_rows() if row["seed"] < 4 or row["arm"] in ("InfoNCE", "oracle relabel")]
    found = ranking_agreement(StudyTable(rows, list(GAINS)), "7 drawings", "held_out")
    assert found.left_out == []
    assert found.cells == 12
    shared = [
        row["retrieval_score"]
        for row in rows
        if (row["arm"], row["data"], row["test"]) == ("InfoNCE", "7 drawings", "held_out") and row["seed"] < 4
    ]
    assert found.aware["InfoNCE"] == pytest.approx(sum(shared) / 12)
    assert all(swap.aware.cells == swap.naive.cells == 12 for swap in found.swaps)


def test_two_arms_are_no_ranking():
    rows = [row for row in study_rows() if row["arm"] in ("GRIT", "InfoNCE")]
    assert ranking_agreement(StudyTable(rows, ["GRIT", "InfoNCE"]), "7 drawings", "held_out") is None
