"""A batch whose activations are held part by part trains exactly as the whole one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.live_memory import LiveMemory
from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import HALF_MASKED, Composition, ecm, info, pairs, student
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError
from truepair.methods import encode as micro_batches
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.momentum import MomentumConfig
from truepair.methods.step import MlmConfig, ObjectivesConfig, PretrainStep

ALL = Composition(ObjectivesConfig(mlm=MlmConfig(masking=HALF_MASKED)), ecm=ecm())
PARTS = ("loss", "itc", "itm", "mlm")


def trained(step: PretrainStep) -> tuple[dict[str, float], dict[str, Tensor], dict[str, float]]:
    """Losses and gradients of the second of two steps, and the figures of both."""
    for number, batch in enumerate(BATCHES):
        step.zero_grad()
        torch.manual_seed(number)
        losses = step(batch, info(number)).losses
        losses["loss"].backward()
        gradients = {name: p.grad.clone() for name, p in step.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for name, parameter in step.named_parameters():
                if name in gradients:
                    parameter -= 0.01 * gradients[name]
        step.after_update(info(number))
    return {name: float(losses[name].detach()) for name in PARTS if name in losses}, gradients, step.epoch_figures(0)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_parts_train_as_the_whole(name: str, size: int) -> None:
    composition = COMPOSITIONS[name]
    losses, gradients, figures = trained(composition.build())
    losses_of_parts, gradients_of_parts, figures_of_parts = trained(replace(composition, micro_batch=size).build())
    assert losses_of_parts == pytest.approx(losses, rel=1e-9)
    assert figures_of_parts == pytest.approx(figures)
    assert gradients_of_parts.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        difference = (gradients_of_parts[parameter] - gradient).norm()
        assert difference <= 1e-9 * gradient.norm() + 1e-12, parameter


@pytest.mark.parametrize("image", [True, False])
def test_what_is_frozen_is_not_computed_twice(image: bool) -> None:
    model = student().train().freeze(image=image, text=not image)
    encoder, calls = BatchEncoder(model, parts=MicroBatches(3)), []
    frozen = model.image_encoder if image else model.text_encoder
    frozen.register_forward_hook(lambda *_: calls.append(1))
    _, images = encoder.encode_images(BATCHES[0], 0)
    (images.sum() + encoder.encode_texts(BATCHES[0]).features.sum()).backward()
    assert len(calls) == 3


DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}


def test_dropout_is_the_same_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    composition = replace(ALL, model=DROPOUT, micro_batch=3, momentum=MomentumConfig(queue_size=12, ramp_epochs=0.1))
    losses, gradients, _ = trained(composition.build())
    assert trained(composition.build())[0] == losses
    # The same parts, but with all activations kept: there is no second pass that could draw otherwise.
    monkeypatch.setattr(micro_batches, "checkpoint", lambda function, *inputs, use_reentrant: function(*inputs))
    losses_of_one_pass, gradients_of_one_pass, _ = trained(composition.build())
    assert losses_of_one_pass == losses
    assert trained(replace(composition, model={}).build())[0] != losses
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_one_pass[parameter], gradient, msg=parameter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    composition = replace(ALL, dtype=torch.float32)
    batch = replace(BATCHES[0], pixel_values=BATCHES[0].pixel_values.float())  # type: ignore[union-attr]
    losses, gradients = [], []
    for size in (0, 3):
        step = replace(composition, micro_batch=size).build()
        with torch.autocast("cpu", dtype):
            losses.append(step(batch, info()).losses["loss"])
        losses[-1].backward()
        gradients.append(step.model.image_projection.weight.grad)
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=0.02)
    assert torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.99


def peak(size: int, batch: int) -> int:
    """Most bytes that a step holds at once."""
    step = replace(ALL, ecm=None, micro_batch=size, model={"vocab_size": 4000}).build()
    given = pairs(list(range(batch)))
    with LiveMemory() as memory:
        step(given, info()).losses["loss"].backward()
    return memory.peak


def test_memory_follows_the_part_and_not_the_batch() -> None:
    assert peak(8, 64) < 0.3 * peak(0, 64)
    assert peak(8, 128) < 0.25 * peak(0, 128)


def test_unusable_sizes_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"give a part of loop\.batch_size 8"):
        LoopConfig(batch_size=8, micro_batch=8)
    model = student()
    model.image_encoder.add_module("norm", torch.nn.BatchNorm2d(3))
    with pytest.raises(ConfigError, match=r"set model\.freeze_image"):
        BatchEncoder(model, parts=MicroBatches(4))
    model.freeze(image=True, text=False)
    assert BatchEncoder(model, parts=MicroBatches(4)).parts.size == 4
