"""On a GPU every composition of losses trains as on the CPU; parts of a batch, compiled layers and caches change none.

Without a GPU both sides are the CPU, and what can differ is the way through the code alone.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.device import DEVICE, repeatable
from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import Composition, info, student
from truepair.data.pairs import PairBatch
from truepair.engine.distributed.accelerator import compile_layers, has_compiler
from truepair.methods.encode import BatchEncoder
from truepair.methods.frozen import FrozenOnStates, frozen_model
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models.encoders.frozen import FrozenStates, StateBlock
from truepair.models.encoders.frozen_captions import CaptionStates, cache_caption_states
from truepair.models.encoders.frozen_images import ImageStates

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
PARTS = ("loss", "itc", "itm", "mlm")
DRAWN = ("drawn negatives",)  # by the device's own generator


def moved(batch: PairBatch, device: torch.device, dtype: torch.dtype) -> PairBatch:
    """A batch on a device; its pixels are of a type."""
    assert batch.pixel_values is not None
    return replace(batch, pixel_values=batch.pixel_values.to(dtype)).to(device)


def trained(
    step: PretrainStep, device: torch.device, dtype: torch.dtype
) -> tuple[list[dict[str, float]], list[Tensor]]:
    """Losses of two steps on a device, and the gradients of the second, on the CPU."""
    step.to(device)
    losses, gradients = [], list[Tensor]()
    with repeatable():
        for number, batch in enumerate(BATCHES):
            step.zero_grad()
            torch.manual_seed(number)
            output = step(moved(batch, device, dtype), info(number, logged=True))
            output.losses["loss"].backward()
            weights = [weight for weight in step.parameters() if weight.grad is not None]
            gradients = [weight.grad.cpu() for weight in weights if weight.grad is not None]
            with torch.no_grad():
                for weight in weights:
                    weight -= 0.01 * weight.grad  # type: ignore[operator]
            step.after_update(info(number))
            losses.append({name: float(output.losses[name].detach()) for name in PARTS if name in output.losses})
    return losses, gradients


def assert_equal(one: list[Tensor], other: list[Tensor], tolerance: float) -> None:
    """Gradients are equal to a share of their length."""
    for wanted, given in zip(one, other, strict=True):
        assert (given - wanted).norm() <= tolerance * (wanted.norm() + 1e-3)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_float32_losses_are_those_of_the_cpu(name: str) -> None:
    composition = replace(COMPOSITIONS[name], dtype=torch.float32)
    losses, gradients = trained(composition.build(), CPU, torch.float32)
    on_device, gradients_on_device = trained(composition.build(), DEVICE, torch.float32)
    if name in DRAWN:
        losses, on_device = ([{"itc": step["itc"]} for step in both[:1]] for both in (losses, on_device))
    else:
        assert_equal(gradients, gradients_on_device, 1e-2)
    for wanted, given in zip(losses, on_device, strict=True):
        assert given == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_parts_of_a_batch_are_the_whole_batch(name: str) -> None:
    results = [trained(replace(COMPOSITIONS[name], micro_batch=size).build(), DEVICE, torch.float64) for size in (0, 3)]
    for wanted, given in zip(results[0][0], results[1][0], strict=True):
        assert given == pytest.approx(wanted, rel=1e-9)
    assert_equal(results[0][1], results[1][1], 1e-8)


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_computes_about_the_same(name: str, dtype: torch.dtype) -> None:
    composition = replace(COMPOSITIONS[name], dtype=torch.float32)
    batch = moved(BATCHES[0], DEVICE, torch.float32)
    losses = []
    for enabled in (False, True):
        step = composition.build().to(DEVICE)
        with torch.autocast(DEVICE.type, dtype, enabled=enabled):
            output = step(batch, info())
        output.losses["loss"].backward()
        assert all(weight.grad.isfinite().all() for weight in step.parameters() if weight.grad is not None)
        losses.append(float(output.losses["itc"].detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.timeout(600)
@pytest.mark.skipif(DEVICE.type == "cuda" and not has_compiler(), reason="no C++ compiler")
def test_compiled_layers_train_alike() -> None:
    composition = Composition(ObjectivesConfig(), dtype=torch.float32)
    plain, compiled = composition.build(), composition.build()
    # On a CPU the layers are traced alone: to compile them there takes minutes, and tests/engine does it.
    compile_layers(compiled.model, backend="inductor" if DEVICE.type == "cuda" else "eager")
    losses, gradients = trained(plain, DEVICE, torch.float32)
    losses_of_compiled, gradients_of_compiled = trained(compiled, DEVICE, torch.float32)
    for wanted, given in zip(losses, losses_of_compiled, strict=True):
        assert given == pytest.approx(wanted, rel=1e-3)
    assert_equal(gradients, gradients_of_compiled, 1e-2)


def caches(folder: Path) -> tuple[ImageStates, CaptionStates]:
    """Frozen states of two views of the 12 images, and of the captions of both batches."""
    model = student(0).float().eval()
    shape = (5, model.config.image_encoder["hidden_size"])
    views = []
    for number in range(2):
        states = torch.randn(12, *shape, generator=torch.Generator().manual_seed(number))
        block = iter([StateBlock(states)])
        views.append(FrozenStates.open_or_compute(folder, f"{number}" * 16, 12, shape, lambda _, block=block: block))
    tokens = {caption: (ids, mask) for batch in BATCHES for caption, ids, mask in _rows(batch)}

    def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of some captions [R, L]."""
        ids, masks = zip(*(tokens[text] for text in texts), strict=True)
        return torch.stack(ids), torch.stack(masks)

    return ImageStates(tuple(views), torch.arange(12)), cache_caption_states(
        model.text_encoder, list(tokens), encode, folder
    )


def _rows(batch: PairBatch) -> list[tuple[str, Tensor, Tensor]]:
    return list(zip(batch.captions, batch.input_ids, batch.attention_mask, strict=True))


def test_frozen_towers_are_read_from_caches(tmp_path: Path) -> None:
    images, captions = caches(tmp_path)
    results = []
    for device in (CPU, DEVICE):
        model = student(0).float().train().freeze(image=True, text=True)
        encoder = BatchEncoder(model, image_cache=images, caption_cache=captions)
        seed = student(11).float().eval()
        guide = frozen_model(BatchEncoder(seed.to(device), image_cache=images, caption_cache=captions))
        assert isinstance(guide, FrozenOnStates)
        step = PretrainStep(
            model,
            encoder,
            ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0)),
            RuleSet(RelationsConfig(rules=[{"detector": "guide", "action": "mask"}], guide_model="guide")),
            srcl=SrclWeights(SrclConfig(seed_model="seed"), guide),
            guide=guide,
        ).train()
        step.to(device)
        losses = []
        with repeatable():
            for number, batch in enumerate(BATCHES):
                length = int(batch.attention_mask.sum(dim=1).max())
                cut = replace(
                    batch,
                    pixel_values=None,
                    input_ids=batch.input_ids[:, :length],
                    attention_mask=batch.attention_mask[:, :length],
                )
                loss = step(cut.to(device), info(number)).losses["loss"]
                loss.backward()
                losses.append(float(loss.detach()))
        assert model.image_projection.weight.grad is not None
        results.append(losses)
    assert results[1] == pytest.approx(results[0], rel=1e-4)
