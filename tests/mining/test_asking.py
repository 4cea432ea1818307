import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from truepair.mining.asking import BY_RANK_FIRST, ROUND, by_rank_draw, next_round, uncertain


def log_odds(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-2, 2, count).astype(np.float32)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 60), answered=st.integers(0, 100))
def test_a_round_is_free_pairs_each_once(seed: int, count: int, answered: int) -> None:
    values = log_odds(count, seed)
    free = np.random.default_rng(seed + 1).random(count) < 0.5
    asked = next_round(values, free, answered, seed)
    numbers = [number for number, _ in asked]
    assert len(set(numbers)) == len(numbers) == min(ROUND, free.sum()) and free[numbers].all()
    assert asked == next_round(values, free, answered, seed)
    if answered < BY_RANK_FIRST:
        assert {why for _, why in asked} <= {"rank"}


def test_three_quarters_are_the_least_sure() -> None:
    values = log_odds(500)
    asked = next_round(values, np.ones(500, np.bool_), 60, 0)
    assert [why for _, why in asked] == (["uncertain"] * 3 + ["rank"]) * 3
    drawn = {number for number, why in asked if why == "rank"}
    slow = sorted((number for number in range(500) if number not in drawn), key=lambda one: abs(values[one]))
    assert [number for number, why in asked if why == "uncertain"] == slow[:9]


def test_draws_by_rank_are_in_proportion() -> None:
    values = log_odds(100)
    free = np.ones(100, np.bool_)
    free[np.argsort(-values)[:5]] = False  # ranks are among the free
    order = np.argsort(-values)[5:]
    firsts = [int(by_rank_draw(values, free, 1, key)[0]) for key in range(4000)]
    counts = np.bincount(firsts, minlength=100)[order]
    expected = 1 / (np.arange(95) + 20.0)
    expected *= 4000 / expected.sum()
    assert counts.sum() == 4000
    assert ((counts - expected) ** 2 / expected).sum() < 150  # chi-square of 94 degrees: 0.02 % are above


def test_the_least_sure_first_and_equals_in_order() -> None:
    values = np.array([0.5, -0.1, 0.1, 3, -0.1], np.float32)
    free = np.array([True, True, True, True, False])
    assert uncertain(values, free, 3).tolist() == [1, 2, 0]
    assert uncertain(values, free, 9).tolist() == [1, 2, 0, 3]
    assert uncertain(values, ~np.ones(5, np.bool_), 2).tolist() == []
