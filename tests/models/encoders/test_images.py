"""Image encoders by config and by checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BlipConfig,
    BlipModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from truepair.errors import CheckpointError, ConfigError
from truepair.models.encoders.images import build_image_encoder, load_image_encoder

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HIERARCHICAL: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
CONFIGS: list[tuple[dict[str, Any], int, int]] = [
    # config, states of a 32 px image, width
    ({"model_type": "vit", **TINY}, 17, 32),
    ({"model_type": "deit", **TINY}, 18, 32),
    ({"model_type": "clip_vision_model", **TINY}, 17, 32),
    ({"model_type": "siglip_vision_model", **TINY}, 16, 32),
    ({"model_type": "blip_vision_model", **TINY}, 17, 32),
    ({"model_type": "beit", **TINY}, 17, 32),
    ({"model_type": "dinov2", **{key: TINY[key] for key in TINY if key != "intermediate_size"}}, 17, 32),
    ({"model_type": "resnet", "embedding_size": 8, **HIERARCHICAL}, 1, 16),
    ({"model_type": "convnext", **HIERARCHICAL}, 1, 16),
    ({"model_type": "conv_stem", "image_size": 32, "hidden_size": 32}, 16, 32),
]
IDS = [config["model_type"] for config, _, _ in CONFIGS]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("config", "states", "width"), CONFIGS, ids=IDS)
def test_states_and_gradients(config: dict[str, Any], states: int, width: int) -> None:
    encoder = build_image_encoder(config)
    out = encoder(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, states, width) and encoder.width == width
    (out * torch.randn_like(out)).sum().backward()
    idle = [name for name, weight in encoder.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle, "weights without a gradient stop distributed training"


@pytest.mark.parametrize("config", [config for config, _, _ in CONFIGS], ids=IDS)
def test_config_of_an_encoder_builds_its_like(config: dict[str, Any]) -> None:
    encoder = build_image_encoder(config).eval()
    copy = build_image_encoder(encoder.config).eval()
    copy.load_state_dict(encoder.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(copy(pixels), encoder(pixels))
    assert copy.config == encoder.config


@pytest.mark.parametrize("kind", ["vit", "deit", "clip_vision_model", "siglip_vision_model", "dinov2", "conv_stem"])
def test_other_image_sizes_interpolate_the_positions(kind: str) -> None:
    encoder = build_image_encoder(dict(CONFIGS[IDS.index(kind)][0])).eval()
    first = encoder(torch.randn(1, 3, 32, 32)).shape[1]
    assert encoder(torch.randn(1, 3, 64, 64)).shape[1] - first == 64 - 16


@pytest.mark.parametrize("kind", ["vit", "deit", "clip_vision_model", "siglip_vision_model", "blip_vision_model"])
def test_resizing_once_equals_interpolating_each_time(kind: str) -> None:
    encoder = build_image_encoder({"model_type": kind, **TINY}).eval()
    resized = encoder.resized(48).eval()
    assert resized.image_size == 48 and resized.config["image_size"] == 48
    pixels = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(resized(pixels), encoder(pixels))


def test_a_type_without_an_image_size_stays_as_it_is_for_any() -> None:
    encoder = build_image_encoder({"model_type": "resnet", "embedding_size": 8, **HIERARCHICAL})
    assert encoder.resized(64) is encoder


def test_resizing_what_has_other_positions_is_refused() -> None:
    swin = {"model_type": "swin", "image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    encoder = build_image_encoder({**swin, "window_size": 4})
    relative = build_image_encoder({"model_type": "beit", **TINY, "use_relative_position_bias": True})
    with pytest.raises(ConfigError, match="takes images of 32 px only"):
        relative.resized(64)
    assert encoder.resized(32) is encoder


def test_frozen_encoder_stays_frozen_in_a_training_model() -> None:
    encoder = build_image_encoder({"model_type": "vit", **TINY, "hidden_dropout_prob": 0.5}).freeze()
    model = torch.nn.Sequential(encoder, torch.nn.Dropout()).train()
    assert model.training and not encoder.training and not any(module.training for module in encoder.modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(pixels), encoder(pixels))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "needs a model_type"),
        ({"model_type": "vti"}, "did you mean 'vit'"),
        ({"model_type": "conv_stm"}, "did you mean 'conv_stem'"),
        ({"model_type": "eficientnet_lite"}, "did you mean 'efficientnet_lite0'"),
        ({"model_type": "bert"}, "not an image encoder"),
        ({"model_type": "clip"}, "not an image encoder.*clip_vision_model"),
        ({"model_type": "vit", "hiden_size": 32}, r"no field 'hiden_size' \(did you mean 'hidden_size'"),
        ({"model_type": "conv_stem", "hiden_size": 32}, r"no field 'hiden_size' \(did you mean 'hidden_size'"),
        ({"model_type": "vit", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "conv_stem", "image_size": 60}, "multiple of 8"),
        ({"model_type": "conv_stem", "hidden_size": 100}, "multiple of 32"),
    ],
)
def test_bad_configs_are_one_line_errors(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_image_encoder(config)
    assert "\n" not in str(caught.value)


def test_loading_a_checkpoint_keeps_its_weights(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**TINY)).eval()
    model.save_pretrained(tmp_path)
    encoder = load_image_encoder(tmp_path).eval()
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(encoder(pixels), model(pixels).last_hidden_state)
    larger = load_image_encoder(tmp_path, image_size=64).eval()
    assert larger.image_size == 64 and larger(torch.randn(1, 3, 64, 64)).shape == (1, 65, 32)


def test_clip_states_are_normalised(tmp_path: Path) -> None:
    model = CLIPModel(CLIPConfig(text_config=dict(TEXT), vision_config=dict(TINY))).eval()
    with torch.no_grad():
        model.vision_model.post_layernorm.weight.normal_()
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    encoder = load_image_encoder(tmp_path).eval()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(pixels)[:, 0], model.vision_model(pixels).pooler_output)
    assert encoder.pixel_mean == (0.1, 0.2, 0.3) and encoder.pixel_std == (0.4, 0.5, 0.6)
    assert build_image_encoder(encoder.config).pixel_std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(("model_class", "config_class"), [(SiglipModel, SiglipConfig), (BlipModel, BlipConfig)])
def test_vision_tower_of_a_model_with_two(model_class: Any, config_class: Any, tmp_path: Path) -> None:
    text = {key: TEXT[key] for key in TEXT if not key.endswith("token_id")}
    model = model_class(config_class(text_config=text, vision_config=dict(TINY))).eval()
    model.save_pretrained(tmp_path)
    encoder = load_image_encoder(tmp_path).eval()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(pixels), model.vision_model(pixels).last_hidden_state)


def test_unusable_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no image encoder could be loaded"):
        load_image_encoder(tmp_path / "nowhere")
    BertModel(BertConfig(**{key: TEXT[key] for key in TEXT if not key.endswith("token_id")})).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not an image encoder"):
        load_image_encoder(tmp_path)


def test_checkpoint_that_lacks_weights(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**TINY))
    weights = {name: weight for name, weight in model.state_dict().items() if "layernorm.weight" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*layernorm.weight"):
        load_image_encoder(tmp_path)
