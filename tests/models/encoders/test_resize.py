from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny_albef import VIT, tiny_model
from truepair.errors import ConfigError
from truepair.models.encoders.images import resize_images
from truepair.models.fusion.albef import AlbefModel

CONV_STEM: dict[str, Any] = {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1}


@pytest.mark.parametrize("encoder", [VIT, CONV_STEM], ids=["vit", "conv_stem"])
def test_a_checkpoint_at_another_image_size_has_interpolated_positions(encoder: dict[str, Any], tmp_path: Path) -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tiny_model(image_encoder=encoder).save_pretrained(tmp_path)
    loaded = AlbefModel.from_pretrained(tmp_path).eval()
    expected = loaded.image_states(pixels)  # interpolated anew in each call
    resize_images(loaded, 32)
    torch.testing.assert_close(loaded.image_states(pixels), expected)
    assert loaded.image_encoder.image_size == loaded.config.image_encoder["image_size"] == 32
    assert sum("position" in name for name, _ in loaded.image_encoder.named_parameters()) == 1
    loaded.save_pretrained(tmp_path / "large")
    again = AlbefModel.from_pretrained(tmp_path / "large").eval()
    assert again.image_encoder.image_size == 32
    torch.testing.assert_close(again.image_states(pixels), expected)


def test_the_position_of_cls_and_all_else_stay() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    resize_images(model, 32)
    changed = [name for name, value in model.state_dict().items() if value.shape != before[name].shape]
    assert len(changed) == 1
    table = model.state_dict()[changed[0]]
    assert table.shape[1] == 1 + 16 and before[changed[0]].shape[1] == 1 + 4
    torch.testing.assert_close(table[:, 0], before[changed[0]][:, 0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name not in changed)


def test_a_frozen_encoder_stays_frozen() -> None:
    model = tiny_model()
    model.image_encoder.freeze()
    resize_images(model, 32)
    model.train()
    assert model.image_encoder.frozen and not model.image_encoder.training
    assert not any(weight.requires_grad for weight in model.image_encoder.parameters())


def test_the_same_size_changes_nothing() -> None:
    model = tiny_model()
    encoder = model.image_encoder
    resize_images(model, 16)
    assert model.image_encoder is encoder


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        resize_images(tiny_model(image_encoder=CONV_STEM), 30)


def test_an_encoder_without_positions_only_takes_note() -> None:
    model = tiny_model(image_encoder={"model_type": "efficientnet_lite0", "image_size": 32, "pretrained": False})
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = model.image_states(pixels)
    resize_images(model, 64)
    assert model.config.image_encoder["image_size"] == 64
    assert torch.equal(model.image_states(pixels), expected)
