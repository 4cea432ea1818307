import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from truepair.engine.loop.optimizer import OptimizerConfig, build_optimizer, learning_rate_at, set_learning_rate
from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError


class TwoParts(TrainingStep):
    """A step whose first part has a learning rate of its own."""

    def __init__(self) -> None:
        super().__init__(PreTrainedModel(PretrainedConfig()))
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


def test_every_group_follows_its_own_peak() -> None:
    optimizer = build_optimizer(TwoParts(), TwoRates())
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-5, 5e-6}
