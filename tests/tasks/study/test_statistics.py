from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.tasks.study.statistics import interval, paired_difference, recovered_share, resampled
from truepair.tasks.study.table import Cell

GRID = [Cell(concepts, seed) for concepts in range(3) for seed in range(5)]


def every_resample(figures):
    """The bootstrap's exact law: all draws of concepts, and for each draw all draws of its seeds, mean -> chance."""
    clusters = {}
    for cell, value in figures.items():
        clusters.setdefault(cell.data_seed, []).append(Fraction(value))
    law = Counter()
    for drawn in product(clusters.values(), repeat=len(clusters)):
        draws = list(product(*(product(cluster, repeat=len(cluster)) for cluster in drawn)))
        for draw in draws:
            values = [value for seeds in draw for value in seeds]
            law[sum(values) / len(values)] += Fraction(1, len(clusters) ** len(clusters) * len(draws))
    return law


@pytest.mark.parametrize(
    "figures",
    [
        {Cell(0, 0): 1, Cell(0, 1): 3, Cell(1, 0): 9, Cell(1, 1): 27},
        {Cell(0, 0): 1, Cell(0, 1): 3, Cell(0, 2): 8, Cell(4, 0): 20},  # a study that is not finished
        {Cell(0, 0): 1, Cell(0, 1): 2, Cell(0, 2): 4},
    ],
    ids=["balanced", "unequal", "one sample of concepts"],
)
def test_resamples_follow_the_law_of_drawing_concepts_then_seeds(figures):
    cells = sorted(figures)
    means = resampled(np.array([[figures[cell]] for cell in cells], dtype=float), cells)[:, 0]
    law = every_resample(figures)
    assert sum(law.values()) == 1
    seen = Counter(np.round(means, 9).tolist())
    assert {round(float(mean), 9) for mean in law} >= set(seen)
    for mean, chance in law.items():
        expected, spread = len(means) * float(chance), (len(means) * float(chance * (1 - chance))) ** 0.5
        assert abs(seen[round(float(mean), 9)] - expected) < 5 * spread + 1


def test_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    figures = {cell: 2.0 * cell.data_seed + rng.normal() for cell in GRID}
    nothing = dict.fromkeys(GRID, 0.0)
    found = paired_difference(figures, nothing)
    means = []
    for _ in range(4000):
        values = []
        for concepts in rng.integers(3, size=3):
            values += [figures[Cell(int(concepts), int(seed))] for seed in rng.integers(5, size=5)]
        means.append(sum(values) / 15)
    means.sort()
    assert found.low == pytest.approx(means[99], abs=0.12)
    assert found.high == pytest.approx(means[3899], abs=0.12)
    assert found.mean == pytest.approx(sum(figures.values()) / 15)
    assert found.spread == pytest.approx(np.std(list(figures.values()), ddof=1))


def test_interval_takes_values_that_occurred():
    assert interval(np.arange(1.0, 1001.0)) == (25.0, 975.0)


def test_arms_are_paired_by_concepts_and_seed():
    """Seeds that are good for both arms cancel out; cells that only one arm has do not count."""
    second = {cell: 100.0 * cell.seed for cell in GRID}
    first = {cell: value + 1.0 for cell, value in second.items()} | {Cell(9, 9): 1e9}
    found = paired_difference(first, second)
    assert (found.mean, found.low, found.high, found.spread) == (1.0, 1.0, 1.0, 0.0)
    assert (found.cells, found.better) == (15, 15)
    assert found.clear


def test_concept_samples_that_disagree_are_not_clear_of_zero():
    """Many seeds of few samples of concepts are no proof: here one sample of three loses."""
    figures = {Cell(concepts, seed): [3.0, 2.0, -1.0][concepts] for concepts in range(3) for seed in range(50)}
    found = paired_difference(figures, dict.fromkeys(figures, 0.0))
    assert found.low == pytest.approx(-1.0)
    assert not found.clear
    assert found.better == 100


def test_few_cells_are_never_clear():
    found = paired_difference({Cell(0, 0): 5.0}, {Cell(0, 0): 1.0})
    assert (found.mean, found.low, found.high, found.spread) == (4.0, 4.0, 4.0, None)
    assert not found.clear
    assert paired_difference({Cell(0, 0): 5.0}, {Cell(0, 1): 1.0}) is None
    for count, clear in ((4, False), (5, True)):
        some = dict.fromkeys(GRID[:count], 3.0)
        assert paired_difference(some, dict.fromkeys(GRID, 1.0)).clear is clear
        share = recovered_share(some, dict.fromkeys(GRID, 1.0), dict.fromkeys(GRID, 5.0))
        assert (share.value, share.cells, share.clear) == (0.5, count, clear)


@settings(max_examples=25)
@given(st.lists(st.floats(-50, 50), min_size=15, max_size=15), st.floats(-9, 9), st.floats(0.1, 5))
def test_differences_move_and_scale_with_the_figures(values, shift, scale):
    figures = dict(zip(GRID, values, strict=True))
    nothing = dict.fromkeys(GRID, 0.0)
    found = paired_difference(figures, nothing)
    moved = paired_difference({cell: scale * value + shift for cell, value in figures.items()}, nothing)
    for name in ("mean", "low", "high"):
        assert getattr(moved, name) == pytest.approx(scale * getattr(found, name) + shift, abs=1e-6)
    back = paired_difference(nothing, figures)
    assert back.mean == pytest.approx(-found.mean, abs=1e-9)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def arms(rng, share, ceiling=10.0, noise=0.5):
    base = {cell: rng.normal(50, 3) for cell in GRID}
    reached = {cell: value + share * ceiling + rng.normal(0, noise) for cell, value in base.items()}
    top = {cell: value + ceiling + rng.normal(0, noise) for cell, value in base.items()}
    return reached, base, top


def test_share_of_the_ceiling_by_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    reached, base, top = arms(rng, 0.6, noise=2.0)
    found = recovered_share(reached, base, top)
    shares = []
    for _ in range(4000):
        cells = [
            Cell(int(concepts), int(seed)) for concepts in rng.integers(3, size=3) for seed in rng.integers(5, size=5)
        ]
        gain = sum(reached[cell] - base[cell] for cell in cells)
        shares.append(gain / sum(top[cell] - base[cell] for cell in cells))
    shares.sort()
    assert found.low == pytest.approx(shares[99], abs=0.02)
    assert found.high == pytest.approx(shares[3899], abs=0.02)
    total = sum(top.values()) - sum(base.values())
    assert found.value == pytest.approx((sum(reached.values()) - sum(base.values())) / total)


def test_the_ceiling_recovers_itself_and_the_reference_nothing():
    reached, base, top = arms(np.random.default_rng(4), 0.5)
    whole, none = recovered_share(top, base, top), recovered_share(base, base, top)
    assert (whole.value, whole.low, whole.high) == (1.0, 1.0, 1.0)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    assert recovered_share(reached, base, {}) is None


def test_no_share_of_a_gain_that_is_not_clear_of_zero():
    reached, base, top = arms(np.random.default_rng(5), 0.5, ceiling=0.1, noise=3.0)
    assert not paired_difference(top, base).clear
    assert recovered_share(reached, base, top) is None
