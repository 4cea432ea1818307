"""One, two or four processes with the same global batch have the same losses and the same gradients."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from sampling.gloo import GlooPool
from training.steps import HALF_MASKED, Composition, ecm, moment, of_rank, pairs
from truepair.objectives.calibration import CalibrationConfig
from truepair.objectives.regulation import RegulationConfig
from truepair.sampling.ranks import Ranks
from truepair.training.itc import ItcConfig
from truepair.training.itm import ItmConfig
from truepair.training.mlm import MlmConfig
from truepair.training.momentum import MomentumConfig
from truepair.training.regulating import SrclConfig
from truepair.training.relating import RelationsConfig, RuleConfig
from truepair.training.step import ObjectivesConfig

HALF = MlmConfig(masking=HALF_MASKED)
NO_RULES = RelationsConfig(rules=[])
GUIDED = RelationsConfig(rules=[RuleConfig(detector="guide", action="reweight", margin=0.3)], guide_model="guide")
FEW_ROWS = ObjectivesConfig(mlm=MlmConfig(masking=HALF_MASKED, row_share=0.3))
SOFTMAX = RegulationConfig(form="softmax")

COMPOSITIONS = {
    "plain": Composition(ObjectivesConfig(mlm=HALF)),
    "drawn negatives": Composition(
        ObjectivesConfig(itm=ItmConfig(sampling="multinomial", hard_fraction=0.5), mlm=HALF), NO_RULES
    ),
    "products of features": Composition(ObjectivesConfig(mlm=HALF), model={"itm_product": True}),
    "hardest judged": Composition(ObjectivesConfig(mlm=HALF), ecm=ecm()),
    "one-sided": Composition(
        ObjectivesConfig(itc=ItcConfig(key_gradient=False, smoothing=0.5), mlm=HALF),
        RelationsConfig(rules=[], symmetric=False),
        ecm=ecm(symmetric=False, once=False, judge_second=False),
    ),
    "all judged": Composition(ObjectivesConfig(mlm=HALF), RelationsConfig(extra_rows=0.5), ecm=ecm(judge="all")),
    "regulated": Composition(
        ObjectivesConfig(mlm=HALF),
        srcl=SrclConfig(weights=SOFTMAX, alpha=0.4, seed_model="seed", calibrate=CalibrationConfig()),
    ),
    "momentum and queue": Composition(
        ObjectivesConfig(mlm=HALF), momentum=MomentumConfig(queue_size=12, decay=0.5, ramp_epochs=0.2)
    ),
    "regulated momentum": Composition(
        ObjectivesConfig(mlm=HALF),
        srcl=SrclConfig(alpha=0.5, seed_model="seed"),
        momentum=MomentumConfig(queue_size=0, ramp_epochs=0.2),
    ),
    "consistency": Composition(ObjectivesConfig(itc=ItcConfig(key_gradient=False, consistency=0.2), mlm=HALF)),
    "guided": Composition(ObjectivesConfig(mlm=HALF), GUIDED, guided=True),
    "few rows of MLM": Composition(FEW_ROWS),
    "ITC alone": Composition(ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))),
}
# Images 0 and 3 stand twice, and one caption is said of three images.
BATCHES = [
    pairs([0, 1, 2, 3, 4, 5, 3, 0], [0, 1, 2, 3, 4, 1, 6, 7], seed=1),
    pairs([8, 1, 2, 9, 4, 10, 3, 11], [8, 1, 2, 9, 4, 1, 3, 11], seed=2),
]
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
    batches = BATCHES if step.momentum is not None or step.parts.miner is not None else BATCHES[:1]
    for number, batch in enumerate(batches):
        step.zero_grad()
        losses = step(of_rank(batch, here.rank, here.count), moment(number)).losses
        losses["loss"].backward()
        parts = {name: losses[name].detach().clone() for name in PARTS if name in losses}
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
        dist.all_reduce_coalesced([*gradients.values(), *parts.values()])
        with torch.no_grad():
            for parameter, gradient in zip(parameters.values(), gradients.values(), strict=True):
                parameter -= 0.01 * gradient.div_(here.count)
        step.after_update(moment(number))
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
    pool = GlooPool(tmp_path_factory.mktemp("gloo"), preload="truepair.training.assemble")
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
