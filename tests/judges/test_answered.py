from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from truepair.errors import CheckpointError, ConfigError
from truepair.judges.answered import AnsweredConfig, AnsweredJudge, Standardised, fit_answered, most_probable


def world(count: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signals with gaps, a prior that knows a little, pictures, and the truth."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=count) - 1
    signals = (hidden[:, None] * [1, 0.5, 0, 0] + random.normal(size=(count, 4))).astype(np.float32)
    signals[random.random((count, 4)) < 0.1] = np.nan
    prior = (hidden + 2 * random.normal(size=count)).astype(np.float32)
    return signals, prior, random.integers(count // 4, size=count), hidden + random.logistic(size=count) / 4 > 0


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    hits = truth[np.argsort(-scores)]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_standardised_is_what_nanmean_and_nanstd_say() -> None:
    signals, *_ = world()
    signals[:, 3] = 7.0
    found = Standardised.of(signals)
    centre, spread = np.nanmean(signals, 0), np.nanstd(signals, 0)
    spread[3] = 1
    slow = np.nan_to_num((signals - centre) / spread, nan=0.0)
    np.testing.assert_allclose(found.values, slow, atol=1e-5)
    empty = Standardised.of(np.full((5, 2), np.nan, np.float32))
    assert (empty.values == 0).all() and np.isfinite(empty.centre).all()


def test_without_answers_the_judge_is_the_prior() -> None:
    signals, prior, pictures, _ = world()
    none = np.zeros(0, np.int64)
    fit = fit_answered("abcd", Standardised.of(signals), prior, none, np.zeros(0), pictures[none])
    assert np.array_equal(fit.judge.log_odds(signals, prior), prior)
    assert len(fit.held_back) == 0


@pytest.mark.parametrize("kind", [True, False])
def test_few_answers_of_one_kind_keep_the_order_near_the_prior(kind: bool) -> None:
    signals, prior, pictures, truth = world()
    which = np.flatnonzero(truth == kind)[:6]
    fit = fit_answered("abcd", Standardised.of(signals), prior, which, np.full(6, float(kind)), pictures[which])
    assert fit.judge.prior_weight > 0
    assert average_precision(fit.judge.log_odds(signals, prior), truth) > average_precision(prior, truth) - 0.03


def test_answers_make_it_better_and_held_back_answers_say_so() -> None:
    signals, prior, pictures, truth = world()
    which = np.random.default_rng(1).permutation(len(prior))[:400]
    fit = fit_answered("abcd", Standardised.of(signals), prior, which, truth[which].astype(float), pictures[which])
    before, after = average_precision(prior, truth), average_precision(fit.judge.log_odds(signals, prior), truth)
    assert after > before + 0.1
    held, seen = (
        average_precision(each, truth[which]) for each in (fit.held_back, fit.judge.log_odds(signals, prior)[which])
    )
    assert held < seen < held + 0.1
    stated = expit(fit.judge.log_odds(signals, prior))
    assert abs(stated.mean() - truth.mean()) < 0.05
    assert (fit.judge.answers, fit.judge.matches) == (400, truth[which].sum())


def test_held_back_answers_never_saw_their_picture() -> None:
    signals, prior, _, truth = world()
    which = np.arange(60)
    shares = truth[which].astype(float)
    standardised = Standardised.of(signals)
    config = AnsweredConfig(folds=60, variance=1.0)  # every picture is a fold
    fit = fit_answered("abcd", standardised, prior, which, shares, np.arange(60), config)
    inputs = np.column_stack([prior[which], np.ones(60), standardised.values[which]]).astype(float)
    start, variances = np.array([1.0, 0, 0, 0, 0, 0]), np.array([0.25, 9.0, 1, 1, 1, 1])
    slow = np.array(
        [
            inputs[one] @ most_probable(np.delete(inputs, one, 0), np.delete(shares, one), start, variances)
            for one in range(60)
        ]
    )
    slope, constant = np.polyfit(slow, fit.held_back, 1)
    np.testing.assert_allclose(fit.held_back, slope * slow + constant, atol=1e-4)


def test_the_weights_are_those_of_scikit_learn_where_both_can() -> None:
    signals, *_, truth = world(300)
    inputs = np.nan_to_num(signals).astype(float)
    found = most_probable(
        np.column_stack([np.ones(300), inputs]), truth.astype(float), np.zeros(5), np.array([1e12, 0.3, 0.3, 0.3, 0.3])
    )
    model = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-10).fit(inputs, truth)
    np.testing.assert_allclose(found, [*model.intercept_, *model.coef_[0]], atol=1e-4)


def test_half_a_share_is_one_yes_and_one_no() -> None:
    _, prior, *_ = world(50)
    inputs = np.column_stack([np.ones(50), prior]).astype(float)
    variances = np.array([1.0, 1.0])
    half = most_probable(inputs, np.full(50, 0.5), np.zeros(2), variances)
    both = most_probable(np.tile(inputs, (2, 1)), np.repeat([0.0, 1.0], 50), np.zeros(2), variances / 2)
    np.testing.assert_allclose(half, both, atol=1e-5)


def test_a_judge_comes_back_from_its_file(tmp_path: Path) -> None:
    signals, prior, pictures, truth = world()
    which = np.arange(200)
    fit = fit_answered("abcd", Standardised.of(signals), prior, which, truth[which].astype(float), pictures[which])
    fit.judge.save(tmp_path / "judge.json")
    again = AnsweredJudge.load(tmp_path / "judge.json")
    assert again == fit.judge and again.name == f"reviewed:{again.fingerprint[:12]}"
    assert np.array_equal(again.log_odds(signals, prior), fit.judge.log_odds(signals, prior))
    other = fit_answered(
        "abcd", Standardised.of(signals), prior, which[:199], truth[:199].astype(float), pictures[:199]
    )
    assert other.judge.fingerprint != again.fingerprint
    for text in ("{}", "[]", "no"):
        (tmp_path / "judge.json").write_text(text)
        with pytest.raises(CheckpointError, match="is no judge of answers"):
            AnsweredJudge.load(tmp_path / "judge.json")


def test_numbers_out_of_range() -> None:
    for wrong in ({"variance": 0.0}, {"folds": 1}, {"prior_spread": -1.0}):
        with pytest.raises(ConfigError, match="spreads above 0 and at least 2 folds"):
            AnsweredConfig(**wrong)


def test_two_answers_that_contradict_the_prior_do_not_turn_the_order_round() -> None:
    prior = np.linspace(-3, 3, 40).astype(np.float32)
    signals = np.zeros((40, 1), np.float32)
    which = np.array([15, 24])
    fit = fit_answered("a", Standardised.of(signals), prior, which, np.array([1.0, 0.0]), which)
    assert fit.judge.prior_weight > 0
