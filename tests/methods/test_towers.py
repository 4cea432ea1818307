"""What the steps of truepair tell the engine of the towers."""

import pytest
from torch import nn
from transformers import CLIPConfig, CLIPModel

from tests.models.dual.tiny_hub import TEXT, VISION
from tests.models.tiny_albef import tiny_model
from truepair.engine.loop.optimizer import build_optimizer
from truepair.errors import ConfigError
from truepair.methods.towers import TowerOptimizerConfig, TowerStep
from truepair.models import HubDualEncoder


def test_the_image_tower_has_its_own_learning_rate() -> None:
    step = TowerStep(tiny_model())
    config = TowerOptimizerConfig(weight_decay=0.5, image_learning_rate=1e-5)
    peak = {id(p): group["peak"] for group in build_optimizer(step, config).param_groups for p in group["params"]}
    assert len(peak) == len([weight for weight in step.parameters() if weight.requires_grad])
    for name, weight in step.named_parameters():
        assert peak[id(weight)] == (1e-5 if name.startswith("model.image_encoder.") else 1e-4), name
    plain = build_optimizer(step, TowerOptimizerConfig())
    assert {group["peak"] for group in plain.param_groups} == {1e-4}


def test_image_towers_are_gathered_by_layer_those_of_copies_too() -> None:
    step = TowerStep(tiny_model())
    step.copy = tiny_model()
    assert step.gathered_by_layer() == [step.model.image_encoder, step.copy.image_encoder]


def three_blocks() -> HubDualEncoder:
    """A CLIP of three blocks a tower."""
    text, vision = {**TEXT, "num_hidden_layers": 3}, {**VISION, "num_hidden_layers": 3}
    return HubDualEncoder(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)))


def test_each_layer_has_its_rate() -> None:
    step = TowerStep(three_blocks())
    config = TowerOptimizerConfig(
        learning_rate=1e-3, image_learning_rate=1e-4, text_learning_rate=3e-4, layer_decay=0.5, weight_decay=0.2
    )
    optimizer = build_optimizer(step, config)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    # By hand, as BEiT has it: the embeddings of three blocks have four layers above them.
    by_hand = {
        "model.vision_model.embeddings.class_embedding": (1e-4 / 16, 0.0),
        "model.vision_model.embeddings.patch_embedding.weight": (1e-4 / 16, 0.2),
        "model.vision_model.pre_layrnorm.weight": (1e-4 / 16, 0.0),
        "model.vision_model.encoder.layers.0.mlp.fc1.weight": (1e-4 / 8, 0.2),
        "model.vision_model.encoder.layers.0.layer_norm1.weight": (1e-4 / 8, 0.0),
        "model.vision_model.encoder.layers.1.mlp.fc1.bias": (1e-4 / 4, 0.0),
        "model.vision_model.encoder.layers.2.self_attn.q_proj.weight": (1e-4 / 2, 0.2),
        "model.vision_model.post_layernorm.bias": (1e-4, 0.0),
        "model.text_model.embeddings.token_embedding.weight": (3e-4 / 16, 0.2),
        "model.text_model.embeddings.position_embedding.weight": (3e-4 / 16, 0.2),
        "model.text_model.encoder.layers.0.self_attn.out_proj.bias": (3e-4 / 8, 0.0),
        "model.text_model.encoder.layers.1.mlp.fc2.weight": (3e-4 / 4, 0.2),
        "model.text_model.encoder.layers.2.layer_norm2.bias": (3e-4 / 2, 0.0),
        "model.text_model.final_layer_norm.weight": (3e-4, 0.0),
        "model.visual_projection.weight": (1e-3, 0.2),
        "model.text_projection.weight": (1e-3, 0.2),
        "model.logit_scale": (1e-3, 0.0),
    }
    weights = dict(step.model.named_parameters())
    for name, (rate, decay) in by_hand.items():
        group = of[id(weights[name])]
        assert group["peak"] == pytest.approx(rate, rel=1e-9), name
        assert group["weight_decay"] == decay, name
    rates = {group["peak"] for group in optimizer.param_groups}
    assert len(rates) == 11  # five a tower, and that of all else
    whole = build_optimizer(step, TowerOptimizerConfig(learning_rate=1e-3))
    assert len(whole.param_groups) == 6  # two towers, decayed or not, the projections, the temperature


def test_a_frozen_tower_needs_no_blocks_and_one_that_is_trained_does() -> None:
    model = tiny_model()
    model.image_encoder = nn.Conv2d(3, 4, 2)
    step = TowerStep(model)
    with pytest.raises(ConfigError, match=r"^optimizer.layer_decay needs blocks, and the image tower has none; set it"):
        build_optimizer(step, TowerOptimizerConfig(layer_decay=0.9))
    model.image_encoder.requires_grad_(False)
    build_optimizer(step, TowerOptimizerConfig(layer_decay=0.9))


@pytest.mark.parametrize("name", ["image", "text"])
def test_rates_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer.{name}_learning_rate is 0; .* or set model.freeze_{name}$"):
        TowerOptimizerConfig(**{f"{name}_learning_rate": 0})
