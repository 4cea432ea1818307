"""A step whose gradients torch itself exchanges: replicated (DDP, as in the loop) and sharded (FSDP2)."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from sampling.gloo import GlooPool
from training.compositions import BATCHES, COMPOSITIONS
from training.steps import moment, of_rank
from truepair.sampling.ranks import Ranks
from truepair.training.step import PretrainStep

NAMES = ["plain", "hardest judged", "momentum and queue", "in parts", "ITC alone"]
WRAPPERS = ["replicated", "sharded"]
Trained = tuple[float, dict[str, NDArray[np.float64]]]


def wrapped(step: PretrainStep, wrapper: str) -> nn.Module:
    """The step as DDP or FSDP2 takes it."""
    if wrapper == "replicated":
        return nn.parallel.DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)
    mesh = init_device_mesh("cpu", (Ranks.current().count,))
    for layer in [*step.model.text_encoder.layers, *step.model.fusion_encoder.layers]:
        fully_shard(layer, mesh=mesh)
        if hasattr(layer, "image_keys_values"):  # the second way into a fusion layer
            register_fsdp_forward_method(layer, "image_keys_values")
    # A scalar cannot be sharded; a momentum model is not trained.
    whole = {step.model.temp, *(step.momentum.parameters() if step.momentum is not None else ())}
    return fully_shard(step, mesh=mesh, ignored_params=whole)


def train(name: str, wrapper: str) -> Trained:
    """Loss, meaned over the ranks, and gradients as the optimizer would see them."""
    here = Ranks.current()
    step = COMPOSITIONS[name].build(here.rank, here.count)
    outer = wrapped(step, wrapper)
    for number, batch in enumerate(BATCHES):
        outer.zero_grad()
        loss = outer(of_rank(batch, here.rank, here.count), moment(number)).losses["loss"]
        loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    gradients = {name: whole(p.grad) for name, p in step.named_parameters() if p.grad is not None}
    if wrapper == "sharded":
        dist.all_reduce(step.model.temp.grad)
        gradients["model.temp"] = step.model.temp.grad / here.count
    return float(mean) / here.count, {name: gradient.numpy() for name, gradient in gradients.items()}


def whole(gradient: Tensor) -> Tensor:
    """A gradient of which each rank may hold a part."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def train_all(wrapper: str) -> list[Trained]:
    torch.manual_seed(0)
    return [train(name, wrapper) for name in NAMES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, list[Trained]]]:
    """What each rank found, by wrapper and number of ranks."""
    pool = GlooPool(tmp_path_factory.mktemp("gloo"), preload="truepair.training.assemble")
    worlds = [("replicated", 1), ("replicated", 2), ("replicated", 4), ("sharded", 2)]
    results = {(wrapper, world): pool.run(train_all, wrapper, world) for wrapper, world in worlds}
    pool.close()
    return {key: dict(zip(NAMES, zip(*of_ranks, strict=True), strict=True)) for key, of_ranks in results.items()}  # type: ignore[misc]


@pytest.mark.parametrize(("wrapper", "world"), [("replicated", 2), ("replicated", 4), ("sharded", 2)])
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
