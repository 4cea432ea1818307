"""A step whose gradients torch itself exchanges: replicated (DDP, as in the loop) and sharded (FSDP2)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from numpy.typing import NDArray
from torch import nn
from torch.distributed.tensor import DTensor

from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import info, of_rank
from tests.sampling.gloo import GlooPool
from truepair.engine.distributed.sharding import settle_gradients, shard, whole
from truepair.methods.step import PretrainStep
from truepair.sampling.ranks import Ranks

NAMES = ["plain", "hardest judged", "momentum and queue", "in parts", "few rows of MLM", "sigmoid", "ITC alone"]
WRAPPERS = ["replicated", "sharded"]
Trained = tuple[float, dict[str, NDArray[np.float64]]]


def wrapped(step: PretrainStep, wrapper: str) -> nn.Module:
    """The step as DDP or FSDP2 takes it."""
    if wrapper == "replicated":
        return nn.parallel.DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)
    shard(step, FullyShardedDataParallelPlugin(fsdp_version=2))
    return step


def train(name: str, wrapper: str) -> Trained:
    """Loss, meaned over the ranks, and gradients as the optimizer would see them."""
    here = Ranks.current()
    step = COMPOSITIONS[name].build(here.rank, here.count)
    outer = wrapped(step, wrapper)
    for number, batch in enumerate(BATCHES):
        outer.zero_grad()
        loss = outer(of_rank(batch, here.rank, here.count), info(number)).losses["loss"]
        loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if wrapper == "sharded":
        settle_gradients([weight for weight in step.parameters() if weight.requires_grad])
    gradients = {name: whole(p.grad) for name, p in step.named_parameters() if p.grad is not None}
    return float(mean) / here.count, {name: gradient.numpy() for name, gradient in gradients.items()}


def train_all(wrapper: str) -> list[Trained]:
    torch.manual_seed(0)
    return [train(name, wrapper) for name in NAMES]


def weights_held(name: str) -> tuple[int, int]:
    """How many trained weights and momentum weights are there, and how many of them one process holds."""
    here = Ranks.current()
    step = COMPOSITIONS[name].build(here.rank, here.count)
    outer = wrapped(step, "sharded")
    weights = list(outer.parameters())
    return sum(map(torch.numel, weights)), sum(part(weight).numel() for weight in weights)


def part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def test_each_process_holds_its_share(tmp_path: Path) -> None:
    pool = GlooPool(tmp_path, size=2, preload="truepair.methods.build")
    for name in ("plain", "momentum and queue"):
        for all_of_them, held in pool.run(weights_held, name, 2):
            assert 0.49 < held / all_of_them < 0.51
    pool.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, list[Trained]]]:
    """What each rank found, by wrapper and number of ranks."""
    pool = GlooPool(tmp_path_factory.mktemp("gloo"), preload="truepair.methods.build")
    worlds = [("replicated", 1), ("replicated", 2), ("replicated", 4), ("sharded", 4)]
    results = {(wrapper, world): pool.run(train_all, wrapper, world) for wrapper, world in worlds}
    pool.close()
    return {key: dict(zip(NAMES, zip(*of_ranks, strict=True), strict=True)) for key, of_ranks in results.items()}  # type: ignore[misc]


@pytest.mark.parametrize(("wrapper", "world"), [("replicated", 2), ("replicated", 4), ("sharded", 4)])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_one_process(
    found: dict[tuple[str, int], dict[str, list[Trained]]], name: str, wrapper: str, world: int
) -> None:
    ((loss, gradients),) = found["replicated", 1][name]
    for loss_here, gradients_here in found[wrapper, world][name]:
        assert loss_here == pytest.approx(loss, rel=1e-9)
        for parameter, gradient in gradients.items():
            difference = np.linalg.norm(gradients_here.get(parameter, 0.0) - gradient)
            assert difference <= 1e-9 * np.linalg.norm(gradient) + 1e-12, parameter
