"""ALBEF's momentum model in a step, against a textbook."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.methods import by_hand
from tests.methods.steps import HALF_MASKED, Composition, info, pairs, student
from truepair.methods.encode import BatchEncoder
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep

OBJECTIVES = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(masking=HALF_MASKED))
NO_RULES = RelationsConfig(rules=[])
FIRST, SECOND = pairs([0, 1, 2, 3]), pairs([4, 1, 5, 6], [8, 9, 2, 7], seed=2)  # image 1 and caption 2 come again


def composed(config: MomentumConfig, relations: RelationsConfig = NO_RULES) -> PretrainStep:
    return Composition(OBJECTIVES, relations, momentum=config).build()


def moved(step: PretrainStep) -> None:
    """A student that is not its momentum model any more."""
    with torch.no_grad():
        for number, parameter in enumerate(step.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            parameter += 0.05 * noise
        step.model.clamp_temperature_()


def momentum_of(step: PretrainStep) -> MomentumModel:
    assert step.momentum is not None
    return step.momentum


def test_it_follows_slowly() -> None:
    step = composed(MomentumConfig(decay=0.9))
    before = {name: value.clone() for name, value in momentum_of(step).model.named_parameters()}
    moved(step)
    step.after_update(info(0))
    students = dict(step.model.named_parameters())
    for name, value in momentum_of(step).model.named_parameters():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * students[name])
        assert not value.requires_grad


def test_what_is_frozen_is_shared_and_the_rest_is_not() -> None:
    model = student()
    momentum = MomentumModel(BatchEncoder(model.freeze(image=True, text=False)), MomentumConfig(), 100)
    for name, own in momentum.model.named_parameters():
        assert (own is model.get_parameter(name)) == name.startswith("image_encoder."), name
    assert not any("image_encoder" in name for name in momentum.tensors())
    assert any("fusion_encoder" in name for name in momentum.tensors())
    assert len(momentum.queue) == 0 and momentum.queue.size == 50  # type: ignore[arg-type, union-attr]


def test_it_has_no_dropout() -> None:
    step = composed(MomentumConfig())
    step.train()
    assert step.model.training and not any(module.training for module in momentum_of(step).modules())


def test_running_statistics_are_the_students() -> None:
    step = composed(MomentumConfig())
    for model in (step.model, momentum_of(step).model):
        model.image_encoder.add_module("norm", torch.nn.BatchNorm2d(3))
    norm = step.model.image_encoder.get_submodule("norm")
    norm(torch.full((2, 3, 4, 4), 3.0))  # as an encoder that normalises over the batch would
    step(FIRST, info(0))
    seen = momentum_of(step).model.image_encoder.get_buffer("norm.running_mean")
    torch.testing.assert_close(seen, torch.full((3,), 0.3))
    assert seen is not norm.get_buffer("running_mean")


def albef_itc(
    step: PretrainStep, batch: object, queue: by_hand.Features, same: set[by_hand.Cell], alpha: float
) -> float:
    """Softmax over batch and queue, targets mixed with the momentum model's; matches as (anchor, key)."""
    online = by_hand.features(step.model, batch)  # type: ignore[arg-type]
    slow = by_hand.features(momentum_of(step).model, batch)  # type: ignore[arg-type]
    temperature = float(step.model.temperature.detach())

    def direction(queries: Tensor, anchors: Tensor, keys: Tensor) -> float:
        targets = {}
        for anchor in range(len(queries)):
            found = [c for c in range(len(keys)) if c == anchor or (anchor, c) in same]
            soft = (anchors[anchor] @ keys.T / temperature).softmax(dim=0)
            targets[anchor] = {
                c: alpha * float(soft[c]) + (1 - alpha) * (c in found) / len(found) for c in range(len(keys))
            }
        return by_hand.itc(queries, keys, temperature, targets)

    i2t = direction(online.images, slow.images, torch.cat([slow.texts, queue.texts]))
    return (i2t + direction(online.texts, slow.texts, torch.cat([slow.images, queue.images]))) / 2


@pytest.mark.parametrize("distillation", [0.0, 0.4])
def test_the_loss_of_albef_with_its_queue(distillation: float) -> None:
    step = composed(MomentumConfig(queue_size=6, distillation=distillation, ramp_epochs=0.4))
    moved(step)
    nothing = by_hand.Features(*(torch.zeros(0, 16, dtype=torch.float64),) * 2)
    first = step(FIRST, info(0))  # at the first step the weight of the soft targets is 0
    assert float(first.losses["itc"]) == pytest.approx(albef_itc(step, FIRST, nothing, set(), 0.0), rel=1e-6)
    queue = by_hand.features(momentum_of(step).model, FIRST)
    # In the queue, behind the four of the batch: image 1 at place 5, caption 2 at place 6.
    alpha, same = distillation * 0.5, {(1, 5), (2, 6)}
    second = step(SECOND, info(2))
    assert float(second.losses["itc"]) == pytest.approx(albef_itc(step, SECOND, queue, same, alpha), rel=1e-6)
    third = step(SECOND, info(9))
    latest = by_hand.features(momentum_of(step).model, SECOND)
    # Six places: the first four pairs, of which the second batch has replaced the first two.
    queue = by_hand.Features(*(torch.cat([new[2:], old[2:], new[:2]]) for new, old in zip(latest, queue, strict=True)))
    same = {(0, 8), (1, 9), (2, 4), (3, 5), (2, 6)}
    assert float(third.losses["itc"]) == pytest.approx(albef_itc(step, SECOND, queue, same, distillation), rel=1e-6)


def test_gradients_reach_the_student_and_nothing_else() -> None:
    step = composed(MomentumConfig(queue_size=6))
    moved(step)
    step(FIRST, info(5))
    step(SECOND, info(6)).losses["itc"].backward()
    assert step.model.image_projection.weight.grad.norm() > 0  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in momentum_of(step).model.parameters())


@pytest.mark.parametrize("number", [0, 5, 10, 15])
def test_mlm_is_distilled_up_a_ramp(number: int) -> None:
    step = composed(MomentumConfig(distillation=0.4))
    moved(step)
    alpha = 0.4 * min(1.0, number / 10)
    rows = by_hand.readings(FIRST, (), step.seed)
    expected = by_hand.mlm(step.model, FIRST, step.masker, rows, momentum_of(step).model, alpha)
    assert float(step(FIRST, info(number)).losses["mlm"]) == pytest.approx(expected, rel=1e-6)


def test_pairs_that_the_momentum_model_finds_alike_are_left_out() -> None:
    rule = {"detector": "momentum", "action": "mask", "margin": 0.1}
    step = composed(MomentumConfig(queue_size=0, distillation=0.0), replace(NO_RULES, rules=[rule], symmetric=False))
    moved(step)
    online, slow = (by_hand.features(model, FIRST) for model in (step.model, momentum_of(step).model))
    cosines, temperature = slow.images @ slow.texts.T, float(step.model.temperature.detach())
    out_i2t = {(i, t) for i in range(4) for t in range(4) if i != t and cosines[i, t] > cosines[i, i] - 0.1}
    out_t2i = {(t, i) for i in range(4) for t in range(4) if i != t and cosines[i, t] > cosines[t, t] - 0.1}
    assert out_i2t and out_t2i and out_i2t != {(i, t) for t, i in out_t2i}
    own = {row: {row: 1.0} for row in range(4)}
    i2t = by_hand.itc(online.images, slow.texts, temperature, own, lambda a, c: float((a, c) not in out_i2t))
    t2i = by_hand.itc(online.texts, slow.images, temperature, own, lambda a, c: float((a, c) not in out_t2i))
    assert float(step(FIRST, info(0)).losses["itc"]) == pytest.approx((i2t + t2i) / 2, rel=1e-6)


def test_a_broken_image_does_not_spoil_the_queue() -> None:
    step = composed(MomentumConfig(queue_size=8))
    assert FIRST.pixel_values is not None
    pixels = FIRST.pixel_values.clone()
    pixels[2] = torch.nan
    broken = step(replace(FIRST, pixel_values=pixels), info(0))
    assert not broken.losses["loss"].isfinite()  # the loop skips this step
    assert step(SECOND, info(0)).losses["loss"].isfinite()
