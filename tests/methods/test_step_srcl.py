"""SRCL in a step, against its equations written out."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods import by_hand
from tests.methods.steps import Composition, info, pairs, student
from truepair.errors import CheckpointError
from truepair.methods.momentum import MomentumConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.objectives.schedules import Schedule
from truepair.objectives.srcl import CalibrationConfig, RegulationConfig

ITC_ALONE = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
BATCH = pairs(list(range(12)))
LINEAR = Schedule("linear", 0.8, 0.2)


def regulated(config: SrclConfig, momentum: MomentumConfig | None = None) -> PretrainStep:
    return Composition(ITC_ALONE, RelationsConfig(rules=[]), srcl=config, momentum=momentum).build()


def itc_of(step: PretrainStep, number: int = 0) -> float:
    return float(step(BATCH, info(number)).losses["itc"].detach())


def srcl(config: RegulationConfig, found: by_hand.Features, seed: by_hand.Features, alpha: float, t: float) -> float:
    """Equations 4 to 9, one anchor after the other."""

    def one_direction(queries: Tensor, keys: Tensor, seed_queries: Tensor, seed_keys: Tensor) -> float:
        tau, losses = config.tau_w if config.form == "tempered" else 1.0, []
        for anchor in range(len(queries)):
            others = [c for c in range(len(keys)) if c != anchor]
            s = {
                c: alpha * math.exp(float(seed_queries[anchor] @ seed_keys[c]) / tau)
                + (1 - alpha) * math.exp(float(queries[anchor] @ keys[c]) / tau)
                for c in others
            }
            raw = {c: math.exp(config.delta / s[c]) if config.form == "softmax" else 1 / s[c] for c in others}
            mean = sum(raw.values()) / len(others)
            f = {c: math.exp(float(queries[anchor] @ keys[c]) / t) for c in range(len(keys))}
            below = f[anchor] + sum(raw[c] / mean * f[c] for c in others)
            losses.append(-math.log(f[anchor] / below))
        return sum(losses) / len(losses)

    i2t = one_direction(found.images, found.texts, seed.images, seed.texts)
    return (i2t + one_direction(found.texts, found.images, seed.texts, seed.images)) / 2


@pytest.mark.parametrize(
    "weights", [RegulationConfig(), RegulationConfig("softmax", delta=3.0), RegulationConfig("tempered", tau_w=0.2)]
)
@pytest.mark.parametrize("number", [0, 10, 19])
def test_the_equations_with_alpha_of_the_moment(weights: RegulationConfig, number: int) -> None:
    step = regulated(SrclConfig(weights=weights, alpha=LINEAR, seed_model="seed"))
    found, seed = by_hand.features(step.model, BATCH), by_hand.features(student(11), BATCH)
    expected = srcl(weights, found, seed, 0.8 - 0.6 * number / 20, float(step.model.temperature.detach()))
    assert itc_of(step, number) == pytest.approx(expected, rel=1e-6)


def test_the_own_similarity_alone() -> None:
    weights = RegulationConfig("tempered", tau_w=0.2)
    step = regulated(SrclConfig(weights=weights, alpha=0.0))
    found = by_hand.features(step.model, BATCH)
    expected = srcl(weights, found, found, 0.0, float(step.model.temperature.detach()))
    assert itc_of(step) == pytest.approx(expected, rel=1e-6)


def test_weights_that_are_all_one_are_infonce() -> None:
    flat = RegulationConfig("tempered", tau_w=1e12)
    step = regulated(SrclConfig(weights=flat, alpha=0.5, seed_model="seed"))
    found = by_hand.features(step.model, BATCH)
    assert itc_of(step) == pytest.approx(by_hand.symmetric_itc(found, float(step.model.temperature.detach())), rel=1e-9)


def test_a_momentum_model_without_a_queue_is_regulated_too() -> None:
    config = SrclConfig(weights=RegulationConfig("softmax"), alpha=0.0)
    momentum = MomentumConfig(queue_size=0, distillation=0.0)
    both, alone = regulated(config, momentum), regulated(config)
    # As long as the momentum model is the student's copy, they are the same.
    assert itc_of(both) == pytest.approx(itc_of(alone), rel=1e-6)
    plain = Composition(ITC_ALONE, RelationsConfig(rules=[])).build()
    assert abs(itc_of(both) - itc_of(plain)) > 1e-3


@pytest.mark.parametrize("form", ["softmax", "tempered"])
def test_the_weights_are_calibrated_once_an_epoch_and_kept(form: str, tmp_path: Path) -> None:
    config = SrclConfig(
        weights=RegulationConfig(form),  # type: ignore[arg-type]
        alpha=0.5,
        seed_model="seed",
        calibrate=CalibrationConfig(share=0.3),
    )
    step = regulated(config)
    figures = step(BATCH, info(0, logged=True)).losses
    assert 0.3 <= float(figures["srcl_below_0.7"]) < 0.3 + 2 / 132
    assert float(figures["srcl_alpha"]) == 0.5
    calibrated = step.srcl.state()  # type: ignore[union-attr]
    assert calibrated != regulated(config).srcl.state()  # type: ignore[union-attr]
    with torch.no_grad():
        step.model.image_projection.weight.mul_(3.0).add_(0.1)
    step(BATCH, info(1))
    assert step.srcl.state() == calibrated  # type: ignore[union-attr]
    step.save_state(tmp_path)
    resumed = regulated(config)
    resumed.load_state(tmp_path)
    assert resumed.srcl.state() == calibrated  # type: ignore[union-attr]
    step(BATCH, info(10, epoch=1))
    assert step.srcl.state() != calibrated  # type: ignore[union-attr]


def test_the_histogram_counts_every_negative_of_the_logged_steps() -> None:
    step = regulated(SrclConfig(alpha=0.5, seed_model="seed"))
    for number, logged in enumerate((True, False, True)):
        step(BATCH, info(number, logged=logged))
    figures = step.epoch_figures(0)
    assert sum(count for name, count in figures.items() if name.startswith("srcl_weights/")) == 2 * 12 * 11


def test_a_checkpoint_of_a_run_without_srcl_is_named(tmp_path: Path) -> None:
    plain = Composition(ITC_ALONE).build()
    plain.save_state(tmp_path)
    assert "srcl" not in json.loads((tmp_path / "parts.json").read_text())
    with pytest.raises(CheckpointError, match="without 'srcl'"):
        regulated(SrclConfig(alpha=0.0)).load_state(tmp_path)
