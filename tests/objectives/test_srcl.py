import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.reference import srcl_weights
from truepair.errors import ConfigError
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.srcl import Regulation, RegulationConfig, normalised_weights

FORMS = ["literal", "softmax", "tempered"]
ALL = slice(None)


def features(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def others(count: int) -> Tensor:
    return ~torch.eye(count, dtype=torch.bool)


@settings(max_examples=60)
@given(st.integers(2, 12), st.integers(0, 2**20), st.sampled_from(FORMS), st.sampled_from([0.0, 0.3, 1.0]))
def test_weights_follow_the_equations(size: int, seed: int, form: str, alpha: float) -> None:
    images, texts, seed_images, seed_texts = (features(size, seed + i) for i in range(4))
    config = RegulationConfig(form, delta=3.0, tau_w=0.2)
    current, of_seed = images @ texts.T, seed_images @ seed_texts.T
    negatives = others(size) & (torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < 0.8)
    regulation = Regulation(config, alpha, seed_images, seed_texts)
    weights = normalised_weights(regulation.log_weights(ALL, ALL, current), negatives)
    wanted = srcl_weights(of_seed, current, negatives, alpha, form, config.delta, config.tau_w)
    torch.testing.assert_close(weights, wanted, rtol=1e-12, atol=1e-12)
    mean = weights.sum(dim=1) / negatives.sum(dim=1)
    torch.testing.assert_close(mean[negatives.any(dim=1)], torch.ones_like(mean)[negatives.any(dim=1)])


@pytest.mark.parametrize("form", FORMS)
def test_weights_fall_as_similarity_rises(form: str) -> None:
    similarity = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(0)
    regulation = Regulation(RegulationConfig(form))
    weights = normalised_weights(regulation.log_weights(ALL, ALL, similarity), torch.ones(1, 50, dtype=torch.bool))
    assert (weights.diff() < 0).all()


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(0, 2**20), st.sampled_from(FORMS))
def test_loss_is_at_most_info_nce_for_every_anchor(size: int, seed: int, form: str) -> None:
    """With weights from the same similarities (alpha 0): Chebyshev's inequality, and E log(1/w) >= 0."""
    images, texts = features(size, seed), features(size, seed + 1)
    regulation = Regulation(RegulationConfig(form))
    plain = contrastive_loss(images, texts, 0.07)
    regulated = contrastive_loss(images, texts, 0.07, regulation=regulation)
    assert (regulated.rows.losses <= plain.rows.losses + 1e-12).all()
    assert (regulated.columns.losses <= plain.columns.losses + 1e-12).all()
    weights = normalised_weights(regulation.log_weights(ALL, ALL, images @ texts.T), others(size))
    assert (-weights[others(size)].log()).mean() >= -1e-12


def test_literal_form_cannot_reach_the_papers_weights_and_ignores_delta() -> None:
    """A false negative at cosine 0.6 among unrelated negatives: 0.2 at most in the paper, 0.58 as written."""
    cosines = torch.full((1, 200), 0.05, dtype=torch.float64)
    cosines[0, 0] = 0.6
    everyone = torch.ones_like(cosines, dtype=torch.bool)

    def first_weight(config: RegulationConfig) -> float:
        return float(normalised_weights(Regulation(config).log_weights(ALL, ALL, cosines), everyone)[0, 0])

    assert math.isclose(first_weight(RegulationConfig("literal")), math.exp(-0.55), rel_tol=0.01)
    assert first_weight(RegulationConfig("literal", delta=20.0)) == first_weight(RegulationConfig("literal"))
    assert first_weight(RegulationConfig("softmax", delta=4.0)) < 0.25
    assert first_weight(RegulationConfig("tempered", tau_w=0.25)) < 0.15


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_weights_have_no_gradient(implementation: str) -> None:
    images, texts = features(20, 0).requires_grad_(), features(20, 1)
    regulation = Regulation(RegulationConfig("softmax"))
    loss = contrastive_loss(images, texts, 0.1, regulation=regulation, implementation=implementation).loss
    (grad,) = torch.autograd.grad(loss, images)
    similarity = (images @ texts.T).detach()
    log_weights = []
    for matrix in (similarity, similarity.T):
        weights = normalised_weights(regulation.log_weights(ALL, ALL, matrix), others(20))
        log_weights.append(weights.masked_fill(~others(20), 1.0).log())
    logits, own = images @ texts.T / 0.1, torch.arange(20)
    constant = F.cross_entropy(logits + log_weights[0], own) + F.cross_entropy(logits.T + log_weights[1], own)
    (wanted,) = torch.autograd.grad(constant / 2, images)
    torch.testing.assert_close(loss, constant / 2)
    torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "mean"},
        {"form": "softmax", "delta": 0.0},
        {"form": "softmax", "delta": 100.0},
        {"form": "tempered", "tau_w": 0.001},
    ],
)
def test_wrong_options_say_so(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=r"srcl\."):
        RegulationConfig(**wrong)


def test_alpha_needs_a_seed_model() -> None:
    with pytest.raises(ValueError, match="seed_queries"):
        Regulation(RegulationConfig(), alpha=0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Regulation(RegulationConfig(), alpha=1.5)
