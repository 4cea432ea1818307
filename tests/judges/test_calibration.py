import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import DataError
from truepair.judges.calibration import calibrated, fit_logistic


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), l2=st.sampled_from([0.0, 1e-3, 0.1]))
def test_the_gradient_of_the_penalised_likelihood_is_zero(seed: int, l2: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    chance = (inputs @ torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64) - 1).sigmoid()
    labels = torch.rand(400, generator=generator) < chance
    weights = torch.rand(400, generator=generator) + 0.1
    found = fit_logistic(inputs, labels, weights, l2=l2).requires_grad_()
    logits = inputs @ found[:3] + found[3]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels.double(), weights.double(), reduction="sum"
    )
    rarer = torch.minimum(weights.double()[labels].sum(), weights.double()[~labels].sum())
    (loss + l2 * rarer / 2 * found[:3].square().sum()).backward()
    assert found.grad is not None and float(found.grad.abs().max()) < 1e-4 * float(rarer)


def test_separable_pairs_and_an_input_that_says_nothing_do_no_harm() -> None:
    inputs = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], dim=1)
    found = fit_logistic(inputs, inputs[:, 0] > 0)
    assert bool(found.isfinite().all()) and found[0] > 5 and abs(float(found[1])) < 1e-6
    with pytest.raises(DataError, match="both matches and non-matches"):
        fit_logistic(inputs, torch.ones(50, dtype=torch.bool))


def test_answers_calibrate_a_judge_by_fits_that_never_saw_the_picture() -> None:
    random = np.random.default_rng(0)
    odds = random.normal(size=4000) * 3
    labels = random.random(4000) < 1 / (1 + np.exp(-(0.5 * odds - 1)))  # twice too sure, and too often
    groups = random.integers(0, 500, 4000)
    found = calibrated(odds, labels, groups)
    assert found is not None
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(0.5 * odds - 1))), atol=0.05)
    flipped = labels.copy()
    flipped[groups == groups[0]] ^= True  # what is said of a picture moves no probability of its own
    again = calibrated(odds, flipped, groups)
    kept = (np.bincount(groups, weights=labels) > 0) == (np.bincount(groups, weights=flipped) > 0)
    assert again is not None and bool(kept.all())
    np.testing.assert_allclose(again[groups == groups[0]], found[groups == groups[0]])
    assert np.abs(again - found).max() > 0


def test_a_calibration_waits_for_matches_and_others_about_several_pictures() -> None:
    odds, groups = np.arange(6.0), np.arange(6)
    assert calibrated(odds, np.zeros(6, bool), groups) is None
    assert calibrated(odds, groups == 5, groups) is None  # one match: no fit but its own has any
    assert calibrated(odds, groups >= 4, groups) is not None
    constant = calibrated(np.zeros(6), groups >= 4, groups)
    assert constant is not None and bool(((constant > 0.05) & (constant < 0.6)).all())
