"""One, two or four processes with the same global batch have the same losses and the same gradients."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import info, of_rank
from tests.sampling.gloo import GlooPool
from truepair.sampling.ranks import Ranks

TOLERANCE = 1e-9  # float64


PARTS = ("loss", "itc", "itm", "mlm")


class Trained(NamedTuple):
    """Losses and gradients of a step, meaned over the ranks, and what was counted."""

    losses: dict[str, float]
    gradients: dict[str, NDArray[np.float64]]
    figures: dict[str, float]


def train(name: str) -> Trained:
    """A step on this rank's share of a batch; with a queue or a memory, a second one, and what that one gave."""
    here = Ranks.current()
    step = COMPOSITIONS[name].build(here.rank, here.count)
    parameters = {name: p for name, p in step.named_parameters() if p.requires_grad}
    batches = BATCHES if step.momentum is not None or step.ecm is not None else BATCHES[:1]
    for number, batch in enumerate(batches):
        step.zero_grad()
        losses = step(of_rank(batch, here.rank, here.count), info(number)).losses
        losses["loss"].backward()
        parts = {name: losses[name].detach().clone() for name in PARTS if name in losses}
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
        dist.all_reduce_coalesced([*gradients.values(), *parts.values()])
        with torch.no_grad():
            for parameter, gradient in zip(parameters.values(), gradients.values(), strict=True):
                parameter -= 0.01 * gradient.div_(here.count)
        step.after_update(info(number))
    return Trained(
        {name: float(value) / here.count for name, value in parts.items()},
        {name: gradient.numpy() for name, gradient in gradients.items()},
        step.epoch_figures(0),
    )


def train_all(names: list[str]) -> list[Trained]:
    return [train(name) for name in names]


@pytest.fixture(scope="module")
def by_world(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[Trained]]]:
    """What each rank found in each composition, for one, two and four ranks."""
    pool = GlooPool(tmp_path_factory.mktemp("gloo"), preload="truepair.methods.build")
    names = list(COMPOSITIONS)
    found = {world: pool.run(train_all, names, world) for world in (1, 2, 4)}
    pool.close()
    return {world: dict(zip(names, zip(*of_ranks, strict=True), strict=True)) for world, of_ranks in found.items()}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_ranks_train_as_one(by_world: dict[int, dict[str, list[Trained]]], name: str) -> None:
    (alone,) = by_world[1][name]
    assert all(value > 0 for value in alone.losses.values())
    assert sum(np.abs(gradient).sum() > 0 for gradient in alone.gradients.values()) > 50
    for world in (2, 4):
        for rank, ours in enumerate(by_world[world][name]):
            assert ours.losses == pytest.approx(alone.losses, rel=TOLERANCE), (world, rank)
            assert ours.figures == pytest.approx(alone.figures), (world, rank)
            for parameter, gradient in alone.gradients.items():
                difference = np.linalg.norm(ours.gradients[parameter] - gradient)
                assert difference <= TOLERANCE * np.linalg.norm(gradient) + 1e-12, (world, rank, parameter)


def test_no_pair_is_asked_for_on_two_ranks(by_world: dict[int, dict[str, list[Trained]]]) -> None:
    for name in ("hardest judged", "all judged"):
        asked = {world: by_world[world][name][0].figures["ecm/memory_misses"] for world in (1, 2, 4)}
        assert asked[1] == asked[2] == asked[4] > 0
