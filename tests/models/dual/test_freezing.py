"""What is frozen gets no gradient, builds no graph and has no dropout; the line says how much is trained."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

from tests.models.dual.tiny_hub import FAMILIES, TEXT, VISION, clip, inputs, seeded, siglip
from tests.models.tiny_albef import tiny_model
from truepair.errors import ConfigError
from truepair.models import DualEncoder, HubDualEncoder
from truepair.models.dual.blocks import TowerBlocks
from truepair.models.dual.freezing import Freezing, describe_trained, freeze


def trained(model: DualEncoder) -> set[str]:
    """Names of the parameters that a step gives a gradient."""
    pixels, ids, mask = inputs()
    model.zero_grad()
    images, texts = model.encode_images(pixels).features, model.encode_texts(ids, mask).features
    logits = images @ texts.T / model.temperature + (0 if model.bias is None else model.bias)
    nn.functional.logsigmoid(logits * torch.eye(3).mul(2).sub(1)).sum().backward()
    return {name for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_embeddings_and_first_blocks_get_no_gradient(family: Any) -> None:
    model = HubDualEncoder(seeded(family)).train()
    everything = trained(model)
    freeze(model, Freezing(image_blocks=1, text_blocks=2))
    resting = {
        name
        for tower, side, count in (
            (model.model.vision_model, "vision_model", 1),
            (model.model.text_model, "text_model", 2),
        )
        for name in everything
        if name.startswith(f"model.{side}.")
        and ("embed" in name or "pre_layrnorm" in name or any(f".{k}." in name for k in range(count)))
    }
    assert trained(model) == everything - resting
    assert sum(weight.requires_grad for weight in model.parameters()) == len(everything - resting)
    freeze(model, Freezing())
    assert trained(model) == everything


def with_dropout() -> DualEncoder:
    vision, text = ViTConfig(**VISION, hidden_dropout_prob=0.5), BertConfig(**TEXT, hidden_dropout_prob=0.5)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    return HubDualEncoder(seeded(lambda: VisionTextDualEncoderModel(config)))


def test_frozen_blocks_build_no_graph_and_have_no_dropout() -> None:
    model = with_dropout().train()
    freeze(model, Freezing(image_blocks=1, text_blocks=1))
    model.eval().train()
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, block: nn.Module) -> None:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            seen.setdefault(name, []).append(output if isinstance(output, Tensor) else output[0])

        block.register_forward_hook(note)

    for side, tower in (("image", model.image_tower), ("text", model.text_tower)):
        for number, block in enumerate(TowerBlocks(tower).blocks):
            watch(f"{side} {number}", block)
    pixels, ids, mask = inputs()
    for _ in range(2):
        model.encode_images(pixels)
        model.encode_texts(ids, mask)
    for side in ("image", "text"):
        (first, again), (last, _) = seen[f"{side} 0"], seen[f"{side} 1"]
        assert first.grad_fn is None and last.grad_fn is not None
        assert torch.equal(first, again)
    (text, other) = seen["text 1"]
    assert not torch.equal(text, other)  # dropout of what is trained


def test_norms_alone_are_trained_and_what_reads_the_towers() -> None:
    model = HubDualEncoder(seeded(clip)).train()
    freeze(model, Freezing(train_only="norms"))
    names = trained(model)
    outside = {"model.logit_scale", "model.visual_projection.weight", "model.text_projection.weight"}
    assert outside < names and all("norm" in name for name in names - outside)
    assert len(names - outside) == 2 * (2 + 4 + 4) + 2  # each block has two norms, three stand outside
    freeze(model, Freezing(image=True, text_blocks=1, train_only="norms"))
    assert {name for name in trained(model) - outside if "vision_model" in name or ".layers.0." in name} == set()
    assert "model.text_model.encoder.layers.1.layer_norm1.weight" in trained(model)


def test_the_line_counts() -> None:
    model = HubDualEncoder(seeded(clip))
    total = sum(weight.numel() for weight in model.parameters())
    image = sum(weight.numel() for weight in model.model.vision_model.parameters())
    text = total - image - 2 * 8 * 24 - 1
    freeze(model, Freezing(image=True))
    assert describe_trained(model) == (
        f"{total - image:,} of {total:,} parameters are trained ({(total - image) / total:.1%}): "
        f"image tower 0 of {image:,}, text tower {text:,} of {text:,}, projections and all else 385 of 385"
    )


@pytest.mark.parametrize("build", [lambda: HubDualEncoder(seeded(siglip)), tiny_model], ids=["siglip", "albef"])
def test_mistakes_are_named(build: Any) -> None:
    model = build()
    count = len(TowerBlocks(model.image_tower))
    with pytest.raises(ConfigError) as error:
        freeze(model, Freezing(image_blocks=count + 1))
    assert str(error.value) == (
        f"model.freeze_image_blocks is {count + 1}, but the image tower has {count} blocks; give 0 to {count}"
    )
