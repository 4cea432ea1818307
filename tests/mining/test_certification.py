from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from truepair.errors import ConfigError
from truepair.mining.certification import (
    Plan,
    Rung,
    allowed_misses,
    expected_matches,
    lower_bound,
    plan_certificate,
    progress_of,
    sample_size,
)


def at_least(matched: int, asked: int, share: float) -> float:
    """The chance of so many matches or more."""
    return sum(comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(matched, asked + 1))


@settings(max_examples=40)
@given(asked=st.integers(1, 60), part=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_bound_is_the_least_share_that_the_sample_allows(asked: int, part: float, confidence: float) -> None:
    matched = round(part * asked)
    low, high = 0.0, 1.0
    for _ in range(50):  # direct search: the share at which so many matches have a chance of 1 - confidence
        middle = (low + high) / 2
        low, high = (middle, high) if at_least(matched, asked, middle) < 1 - confidence else (low, middle)
    assert lower_bound(matched, asked, confidence) == pytest.approx(low if matched else 0.0, abs=1e-9)


@settings(max_examples=40)
@given(asked=st.integers(1, 200), precision=st.floats(0.5, 0.99), confidence=st.sampled_from([0.8, 0.95]))
def test_so_many_may_miss_as_the_bound_says(asked: int, precision: float, confidence: float) -> None:
    slow = max((m for m in range(asked + 1) if lower_bound(asked - m, asked, confidence) >= precision), default=-1)
    assert int(allowed_misses(asked, precision, confidence)) == slow


def test_drawing_without_replacement_misleads_no_more_often() -> None:
    for pairs in range(2, 70):
        for precision in (0.5, 0.8, 0.9, 0.95):
            bad = int(np.floor(pairs * (1 - precision) + 1e-9)) + 1  # the least that breaks the statement
            if bad > pairs:
                continue
            for asked in range(1, pairs + 1):
                misses = int(allowed_misses(asked, precision))
                chance = sum(comb(bad, m) * comb(pairs - bad, asked - m) for m in range(min(misses, asked) + 1)) / comb(
                    pairs, asked
                )
                assert chance <= 0.05 + 1e-12


def test_samples_are_the_least_that_pass_often_enough() -> None:
    size = sample_size(0.97, 0.9)
    assert size is not None
    passes = [1 - at_least(int(allowed_misses(n, 0.9)) + 1, n, 0.03) for n in range(1, size + 1)]
    assert passes[-1] >= 0.9 and max(passes[:-1]) < 0.9
    assert sample_size(0.91, 0.9) is None


@given(seed=st.integers(0, 1000), precision=st.floats(0.05, 0.99))
def test_the_most_pairs_of_an_expected_precision(seed: int, precision: float) -> None:
    random = np.random.default_rng(seed)
    values = np.round(random.random(30), 1).astype(np.float32)  # with ties
    free = random.random(30) < 0.7
    best = (0, 1.0)
    for threshold in np.unique(values[free]):
        above = values[free & (values >= threshold)].astype(float)
        if above.sum() >= precision * len(above) and len(above) > best[0]:
            best = (len(above), float(threshold))
    assert expected_matches(values, free, precision) == best


def world(seed: int, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    log_odds = random.normal(-3, 3.5, count)
    truth = random.random(count) < expit(log_odds)
    stated = random.uniform(0.8, 1.25) * log_odds + random.normal(0, 0.4)
    return expit(stated).astype(np.float32), truth


def test_a_plan_is_nested_samples_of_what_is_above() -> None:
    probabilities, _ = world(0)
    free = np.random.default_rng(1).random(5000) < 0.8
    plan = plan_certificate(probabilities, free, 0.8, seed=7)
    assert plan == plan_certificate(probabilities, free, 0.8, seed=7)
    assert plan != plan_certificate(probabilities, free, 0.8, seed=8)
    assert len(plan.rungs) > 1
    for rung, looser in zip(plan.rungs, [*plan.rungs[1:], None], strict=True):
        above = free & (probabilities >= np.float32(rung.threshold))
        assert above.sum() == rung.pairs and above[list(rung.sample)].all()
        assert len(set(rung.sample)) == len(rung.sample)
        assert rung.misses == int(allowed_misses(len(rung.sample), 0.8))
        if looser is not None:
            assert looser.threshold < rung.threshold and looser.pairs > rung.pairs
            inside = [number for number in looser.sample if probabilities[number] >= np.float32(rung.threshold)]
            shared = min(len(inside), len(rung.sample))
            assert inside[:shared] == list(rung.sample[:shared])  # one order serves both


def test_each_pair_above_is_drawn_as_often() -> None:
    probabilities, _ = world(0, 300)
    free = np.ones(300, np.bool_)
    counts = np.zeros(300)
    for seed in range(400):
        rung = plan_certificate(probabilities, free, 0.6, seed=seed).rungs[-1]
        counts[list(rung.sample)] += 1
    above = probabilities >= np.float32(rung.threshold)
    share = len(rung.sample) / rung.pairs
    assert (counts[~above] == 0).all()
    spread = (counts[above] - 400 * share) / np.sqrt(400 * share * (1 - share))
    assert np.abs(spread).max() < 5


def test_steps_from_the_strictest_and_ends_with_the_first_failure() -> None:
    rungs = (Rung(0.9, 50, (1, 2, 3), 0), Rung(0.8, 90, (1, 2, 4, 5), 1), Rung(0.7, 200, (1, 6, 7, 8), 0))
    plan = Plan(0.5, 0.8, rungs)
    assert progress_of(plan, {}).waiting == (1, 2, 3)
    assert progress_of(plan, {1: True}).waiting == (2, 3)
    failed = progress_of(plan, {1: True, 2: False})
    assert (failed.over, failed.passed, failed.asked, failed.matched) == (True, 0, 2, 1)  # the third changes nothing
    first = dict.fromkeys((1, 2, 3), True)
    second = progress_of(plan, first)
    assert (second.over, second.passed, second.waiting) == (False, 1, (4, 5))
    assert progress_of(plan, first | {4: False, 5: False}).over
    third = progress_of(plan, first | {4: False, 5: True})
    assert (third.passed, third.waiting) == (2, (6, 7, 8))
    assert progress_of(plan, first | {4: False, 5: True, 6: False}).passed == 2
    whole = progress_of(plan, first | {4: False, 5: True, 6: True, 7: True, 8: True})
    assert (whole.passed, whole.over, whole.waiting) == (3, True, ())


def replayed(probabilities: np.ndarray, truth: np.ndarray, precision: float, seed: int) -> bool | None:
    """Whether what was stated is true; None where nothing was."""
    try:
        plan = plan_certificate(probabilities, np.ones(len(truth), np.bool_), precision, seed=seed)
    except ConfigError:
        return None
    progress = progress_of(plan, dict(enumerate(truth.tolist())))
    if not progress.passed:
        return None
    above = probabilities >= np.float32(plan.rungs[progress.passed - 1].threshold)
    return bool(truth[above].mean() >= precision)


@pytest.mark.parametrize("precision", [0.8, 0.9])
def test_what_is_stated_holds_in_nearly_all_replays(precision: float) -> None:
    found = [replayed(*world(seed), precision, seed) for seed in range(200)]
    stated = [one for one in found if one is not None]
    assert len(stated) > 60
    assert sum(stated) / len(stated) >= 0.95


def test_a_judge_that_knows_nothing_is_seldom_certified() -> None:
    random = np.random.default_rng(0)
    stated = 0
    for seed in range(400):
        probabilities = random.uniform(0.5, 1, 2000).astype(np.float32)
        truth = random.random(2000) < 0.79  # just below what is to be stated, at every threshold
        stated += replayed(probabilities, truth, 0.8, seed) is False
    assert stated / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_what_cannot_be_planned_is_said() -> None:
    free = np.ones(100, np.bool_)
    low = np.full(100, 0.3, np.float32)
    with pytest.raises(ConfigError, match="expects 90% of 0 unjudged pairs to match"):
        plan_certificate(low, free, 0.9, seed=0)
    for precision, confidence in ((1.0, 0.95), (0.0, 0.95), (0.9, 1.0), (0.9, 0.2)):
        with pytest.raises(ConfigError, match=r"a precision between 0 and 1 and a confidence from 0.5"):
            plan_certificate(low, free, precision, confidence, seed=0)
