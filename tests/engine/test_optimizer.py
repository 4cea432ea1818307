import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from truepair.engine.loop.optimizer import OptimizerConfig, build_optimizer, learning_rate_at, set_learning_rate
from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError


class Plain(PreTrainedModel):
    """Transformers remembers of the class itself what holds for all that have not been built yet in this process."""


class TwoParts(TrainingStep):
    """A step whose first part has a learning rate of its own."""

    def __init__(self) -> None:
        super().__init__(Plain(PretrainedConfig()))
        self.first = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))

    def part_of(self, name: str) -> str:
        return name.partition(".")[0] if name.startswith("first.") else ""


@dataclass(frozen=True, kw_only=True)
class TwoRates(OptimizerConfig):
    first: float = 1e-5

    def peak(self, part: str) -> float:
        return self.first if part == "first" else self.learning_rate


def test_no_decay_on_biases_norms_and_scalars() -> None:
    model = TwoParts()
    optimizer = build_optimizer(model, TwoRates(weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    peak = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        plain_matrix = name in ("first.0.weight", "head.weight")
        assert decay[id(parameter)] == (0.5 if plain_matrix else 0.0), name
        assert peak[id(parameter)] == (1e-5 if name.startswith("first") else 1e-4), name


def test_frozen_parameters_stay_out() -> None:
    model = TwoParts()
    model.first.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in [*model.head.parameters(), model.temp]}
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        build_optimizer(model, OptimizerConfig())


def test_warm_up_then_cosine() -> None:
    config = OptimizerConfig(warmup_steps=10, warmup_start=0.1, final_learning_rate=0.2)
    assert learning_rate_at(0, 110, config) == pytest.approx(0.1)
    assert learning_rate_at(5, 110, config) == pytest.approx(0.55)
    assert learning_rate_at(10, 110, config) == pytest.approx(1.0)
    assert learning_rate_at(60, 110, config) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert learning_rate_at(110, 110, config) == pytest.approx(0.2)


def test_the_peak_is_held_until_the_decay_starts() -> None:
    config = OptimizerConfig(warmup_steps=10, final_learning_rate=0.2, decay_start=0.5)
    assert learning_rate_at(5, 100, config) == pytest.approx(0.55)
    assert [learning_rate_at(step, 100, config) for step in (10, 49, 50)] == pytest.approx([1.0, 1.0, 1.0])
    assert learning_rate_at(75, 100, config) == pytest.approx(0.2 + 0.8 * 0.5)
    assert learning_rate_at(100, 100, config) == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="decay_start"):
        OptimizerConfig(decay_start=1.0)


def test_a_warm_up_is_a_share_of_the_run() -> None:
    config = OptimizerConfig(warmup_share=0.1, warmup_start=0.0)
    assert [config.warmup(steps) for steps in (40, 1000)] == [4, 100]
    for total in (40, 1000):
        by_steps = OptimizerConfig(warmup_steps=total // 10, warmup_start=0.0)
        for step in range(0, total + 1, total // 20):
            assert learning_rate_at(step, total, config) == learning_rate_at(step, total, by_steps)
    assert config.warnings(1) == [] and OptimizerConfig(warmup_share=0.0).warmup(100) == 0
    with pytest.raises(ConfigError, match=r"^optimizer.warmup_share is 1.0; give a number from 0 to below 1$"):
        OptimizerConfig(warmup_share=1.0)


def test_a_warm_up_longer_than_the_run_is_told() -> None:
    config = OptimizerConfig(warmup_steps=2000)
    assert config.warnings(2001) == []
    assert config.warnings(2000) == [
        "the learning rate never reaches its peak: optimizer.warmup_steps is 2,000, and the run has 2,000 steps; "
        "set optimizer.warmup_share to 0.1, say"
    ]


def test_layers_below_others_are_slower() -> None:
    class Layered(TwoParts):
        def layers_above(self, name: str) -> int:
            return 2 if name.startswith("first.0") else 0

    model = Layered()
    peak = {
        id(p): group["peak"]
        for group in build_optimizer(model, TwoRates(layer_decay=0.5)).param_groups
        for p in group["params"]
    }
    assert peak[id(model.first[0].weight)] == peak[id(model.first[0].bias)] == 1e-5 / 4
    assert peak[id(model.first[1].weight)] == 1e-5 and peak[id(model.head.weight)] == 1e-4
    with pytest.raises(ConfigError, match=r"^optimizer.layer_decay is 1.5; give a number above 0, up to 1$"):
        OptimizerConfig(layer_decay=1.5)


def test_every_group_follows_its_own_peak() -> None:
    optimizer = build_optimizer(TwoParts(), TwoRates())
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-5, 5e-6}
