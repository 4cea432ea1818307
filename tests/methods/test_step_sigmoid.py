"""The sigmoid loss in a step, against loops over all cells."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods import by_hand
from tests.methods.steps import HALF_MASKED, Composition, ecm, info, pairs, student, verdicts
from tests.methods.test_step_momentum import momentum_of, moved
from truepair.errors import CheckpointError, ConfigError
from truepair.methods.momentum import MomentumConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.objectives.srcl import RegulationConfig

ALONE = {"itm": ItmConfig(weight=0.0), "mlm": MlmConfig(weight=0.0)}
SIGMOID = ItcConfig(loss="sigmoid", bias_init=-3.0)
NO_RULES = RelationsConfig(rules=[])
# Images 0 and 3 stand twice, and caption 1 is said of two images.
BATCH = pairs([0, 1, 2, 3, 4, 5, 3, 0], [0, 1, 2, 3, 4, 1, 6, 7])
SAME = {(0, 7), (7, 0), (3, 6), (6, 3), (1, 5), (5, 1)}


def objectives(**fields: object) -> ObjectivesConfig:
    return ObjectivesConfig(itc=replace(SIGMOID, **fields), **ALONE)  # type: ignore[arg-type]


def by_cells(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    bias: float,
    label: Callable[[int, int], float],
    weight: Callable[[int, int], float] = lambda anchor, candidate: 1.0,
) -> float:
    """Sum over all cells over the number of anchors."""
    total = 0.0
    for a, anchor in enumerate(anchors):
        for c, candidate in enumerate(candidates):
            z = float(anchor @ candidate) / temperature + bias
            matches, differs = math.log1p(math.exp(-z)), math.log1p(math.exp(z))
            total += weight(a, c) * (label(a, c) * matches + (1 - label(a, c)) * differs)
    return total / len(anchors)


def of(step: PretrainStep) -> tuple[by_hand.Features, float]:
    return by_hand.features(step.model, BATCH), float(step.model.temperature.detach())  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_rules_label_cells(smoothing: float) -> None:
    step = Composition(objectives(smoothing=smoothing)).build()
    found, temperature = of(step)

    def label(a: int, c: int) -> float:
        return (1 - smoothing) * (a == c or (a, c) in SAME) + smoothing / 8

    wanted = by_cells(found.images, found.texts, temperature, -3.0, label)
    output = step(BATCH, info(logged=True))
    assert output.losses["itc"].item() == pytest.approx(wanted, rel=1e-6)
    assert output.losses["bias"].item() == -3.0


def test_masked_cells_of_one_direction() -> None:
    rules = [{"detector": "guide", "action": "mask", "margin": 0.02}]
    relations = RelationsConfig(rules=rules, guide_model="guide", symmetric=False)
    step = Composition(objectives(), relations, guided=True).build()
    found, temperature = of(step)
    guide = by_hand.features(student(12), BATCH)
    cosines, own = guide.images @ guide.texts.T, (guide.images * guide.texts).sum(dim=1)
    by_images = {(i, t) for i in range(8) for t in range(8) if i != t and cosines[i, t] > own[i] - 0.02}
    by_texts = {(i, t) for i in range(8) for t in range(8) if i != t and cosines[i, t] > own[t] - 0.02}
    assert by_images != by_texts and 0 < len(by_images) < 56
    halves = [
        by_cells(
            found.images,
            found.texts,
            temperature,
            -3.0,
            lambda a, c: float(a == c),
            lambda a, c, cells=cells: float((a, c) not in cells),  # type: ignore[misc]
        )
        for cells in (by_images, by_texts)
    ]
    assert step(BATCH, info()).losses["itc"].item() == pytest.approx(sum(halves) / 2, rel=1e-6)


def test_weights_of_srcl_are_the_mean_of_both_directions() -> None:
    srcl = SrclConfig(weights=RegulationConfig("tempered", tau_w=0.2), alpha=1.0, seed_model="seed")
    step = Composition(objectives(), NO_RULES, srcl=srcl).build()
    found, temperature = of(step)
    seed = by_hand.features(student(11), BATCH)
    raw = (-(seed.images @ seed.texts.T) / 0.2).exp().fill_diagonal_(0.0)
    mean = (raw * 7 / raw.sum(dim=1, keepdim=True) + raw * 7 / raw.sum(dim=0, keepdim=True)) / 2
    weights = mean.fill_diagonal_(1.0)
    assert weights.std() > 0.1
    wanted = by_cells(
        found.images,
        found.texts,
        temperature,
        -3.0,
        lambda a, c: float(a == c),
        lambda a, c: float(weights[a, c]),
    )
    assert step(BATCH, info()).losses["itc"].item() == pytest.approx(wanted, rel=1e-6)


def test_momentum_labels_over_batch_and_queue() -> None:
    step = Composition(
        objectives(), NO_RULES, momentum=MomentumConfig(queue_size=8, distillation=0.4, ramp_epochs=0.4)
    ).build()
    moved(step)
    first = pairs([8, 1, 9, 10], [8, 9, 2, 10], seed=2)
    step(first, info(0))
    queue = by_hand.features(momentum_of(step).model, first)  # type: ignore[arg-type]
    slow = by_hand.features(momentum_of(step).model, BATCH)  # type: ignore[arg-type]
    online, temperature = of(step)
    same = {(1, 9), (2, 10)}  # image 1 and caption 2 are in the queue, behind the eight of the batch
    alpha = 0.4 * 2 / 4

    def direction(anchors: Tensor, momentum_anchors: Tensor, keys: Tensor) -> float:
        def label(a: int, c: int) -> float:
            known = float(a == c or (a, c) in same)
            logit = float(momentum_anchors[a] @ keys[c]) / temperature - 3.0
            return (1 - alpha) * known + alpha / (1 + math.exp(-logit))

        return by_cells(anchors, keys, temperature, -3.0, label)

    i2t = direction(online.images, slow.images, torch.cat([slow.texts, queue.texts]))
    t2i = direction(online.texts, slow.texts, torch.cat([slow.images, queue.images]))
    assert step(BATCH, info(2)).losses["itc"].item() == pytest.approx((i2t + t2i) / 2, rel=1e-6)


def test_the_step_has_a_bias_where_the_model_has_none() -> None:
    plain = Composition(ObjectivesConfig(itc=ItcConfig(), **ALONE)).build()  # type: ignore[arg-type]
    step = Composition(objectives()).build()
    own = {name for name, _ in step.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert own == {"own_bias"} and plain.bias is None
    step(BATCH, info()).losses["loss"].backward()
    assert step.own_bias is not None and step.own_bias.grad is not None and step.own_bias.grad != 0
    assert "own_bias" not in step.model.state_dict()


def test_bounds_on_information_are_left_out() -> None:
    sigmoid, softmax = (
        Composition(ObjectivesConfig(itc=itc, **ALONE)).build()(BATCH, info(logged=True)).losses.keys()  # type: ignore[arg-type]
        for itc in (SIGMOID, ItcConfig())
    )
    assert softmax - sigmoid == {"mi_positive", "mi_negative", "mi_bound"}
    assert sigmoid - softmax == {"bias"}


def test_it_goes_with_the_losses_that_fuse_and_a_judge() -> None:
    full = ObjectivesConfig(itc=SIGMOID, mlm=MlmConfig(masking=HALF_MASKED))
    losses: Mapping[str, Tensor] = Composition(full, ecm=ecm()).build()(BATCH, info()).losses
    assert {"itc", "itm", "mlm"} <= losses.keys() and all(value.isfinite() for value in losses.values())
    assert verdicts().max() > 0.8  # some are converted


def test_the_bias_comes_back_exactly(tmp_path: Path) -> None:
    step, other = (Composition(objectives(), dtype=torch.float32).build() for _ in range(2))
    assert step.own_bias is not None and other.own_bias is not None
    with torch.no_grad():
        step.own_bias.fill_(-1 / 3)
    step.save_state(tmp_path)
    other.load_state(tmp_path)
    assert torch.equal(step.own_bias, other.own_bias)
    Composition(ObjectivesConfig(itc=ItcConfig(), **ALONE)).build().save_state(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="is of a run without 'bias'"):
        other.load_state(tmp_path)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.itc\.consistency .* set it to 0"):
        ItcConfig(loss="sigmoid", consistency=0.2)
    with pytest.raises(ConfigError, match=r"objectives\.itc\.loss is 'hinge'"):
        ItcConfig(loss="hinge")  # type: ignore[arg-type]
