import pytest
import torch

from truepair.errors import ConfigError
from truepair.objectives.srcl import (
    CalibrationConfig,
    Regulation,
    RegulationConfig,
    calibrated,
    normalised_weights,
    weight_histogram,
)

ALL = slice(None)


def cosines(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of 128 whose negatives' cosines are normal around 0.05, as in the simulations behind the two forms."""
    generator = torch.Generator().manual_seed(0)
    similarity = (0.05 + spread * torch.randn(128, 128, generator=generator)).clamp(-1, 1)
    return similarity, ~torch.eye(128, dtype=torch.bool)


@pytest.mark.parametrize("form", ["softmax", "tempered"])
@pytest.mark.parametrize("spread", [0.08, 0.12])
def test_reaches_the_papers_statistics(form: str, spread: float) -> None:
    similarity, negatives = cosines(spread)
    found = calibrated(Regulation(RegulationConfig(form)), similarity, negatives)
    weights = normalised_weights(found.log_weights(ALL, ALL, similarity), negatives)
    histogram = weight_histogram(weights, negatives)
    assert histogram.share_below_0_7 == pytest.approx(0.2, abs=0.001)
    similarity[0, 1] = 0.05 + 7 * spread  # a false negative stands far out of the crowd
    weights = normalised_weights(found.log_weights(ALL, ALL, similarity.clamp(max=1)), negatives)
    assert weights[0, 1] <= 0.2


def test_wider_cosines_need_milder_weights() -> None:
    tau = [
        calibrated(Regulation(RegulationConfig("tempered")), *cosines(spread)).config.tau_w for spread in (0.08, 0.25)
    ]
    assert tau[0] < tau[1]


def test_uses_seed_and_alpha_of_the_regulation() -> None:
    generator = torch.Generator().manual_seed(1)
    seed = torch.nn.functional.normalize(torch.randn(128, 8, generator=generator), dim=1)
    similarity, negatives = cosines(0.1)
    found = calibrated(Regulation(RegulationConfig("softmax"), 0.7, seed, seed), similarity, negatives)
    weights = normalised_weights(found.log_weights(ALL, ALL, similarity), negatives)
    assert (weights[negatives] < 0.7).float().mean() == pytest.approx(0.2, abs=0.001)
    assert found.alpha == 0.7


def test_other_statistic() -> None:
    similarity, negatives = cosines(0.1)
    found = calibrated(Regulation(RegulationConfig("tempered")), similarity, negatives, CalibrationConfig(0.05, 0.5))
    weights = normalised_weights(found.log_weights(ALL, ALL, similarity), negatives)
    assert (weights[negatives] < 0.5).float().mean() == pytest.approx(0.05, abs=0.001)


def test_impossible_calibrations_say_so() -> None:
    similarity, negatives = cosines(0.1)
    with pytest.raises(ConfigError, match="nothing to calibrate"):
        calibrated(Regulation(RegulationConfig("literal")), similarity, negatives)
    with pytest.raises(ConfigError, match="hardly differ"):
        calibrated(Regulation(RegulationConfig("softmax")), torch.zeros(8, 8), ~torch.eye(8, dtype=torch.bool))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        CalibrationConfig(share=1.0)


def test_histogram_counts_every_negative_once() -> None:
    weights = torch.tensor([[9.0, 0.0, 0.1, 0.69], [0.7, 1.99, 2.0, 50.0]])
    negatives = torch.ones(2, 4, dtype=torch.bool)
    negatives[0, 0] = False
    histogram = weight_histogram(weights, negatives, bins=4)
    assert histogram.counts.tolist() == [2, 2, 0, 1, 2]
    assert histogram.edges.tolist() == [0, 0.5, 1, 1.5, 2]
    assert histogram.share_below_0_2 == pytest.approx(2 / 7)
    assert histogram.share_below_0_7 == pytest.approx(3 / 7)
    empty = weight_histogram(weights, torch.zeros_like(negatives))
    assert empty.counts.sum() == 0 and empty.share_below_0_7 == 0
