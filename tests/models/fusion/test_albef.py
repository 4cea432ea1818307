from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.tiny_albef import batch, tiny_config, tiny_model
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

CONV_STEM = {"model_type": "conv_stem"}


def test_base_has_the_parameters_of_albef() -> None:
    with torch.device("meta"):
        model = AlbefModel(AlbefConfig.base())
    d, f = 768, 3072
    linear, norm = d * d + d, 2 * d
    block = 4 * linear + 2 * d * f + f + d + 2 * norm  # attention, feed-forward, two norms
    vit = 12 * block + (3 * 256 + 1) * d + (256 + 2) * d + norm  # patches, positions, class token
    text = (30522 + 512 + 2) * d + norm + 12 * block
    cross = 6 * (4 * linear + norm)
    heads = 2 * (d * 256 + 256) + 1 + 2 * d + 2 + linear + norm + 30522  # the vocabulary matrix is tied
    assert sum(parameter.numel() for parameter in model.parameters()) == vit + text + cross + heads == 209_937_725


def plain_fields(model: AlbefModel) -> dict[str, Any]:
    return {name: getattr(model.config, name) for name in AlbefConfig.__annotations__}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tie_word_embeddings": False},
        {"mlm_head": False, "contrastive_head": False},
        {"projection": "mlp", "itm_product": True, "image_pooling": "mean", "text_pooling": "mean"},
        {"image_encoder": CONV_STEM},
    ],
    ids=["default", "untied", "discriminator", "options", "conv stem"],
)
def test_a_saved_model_comes_back_bit_for_bit(fields: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded, info = AlbefModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert plain_fields(loaded) == plain_fields(model)


@pytest.mark.parametrize("tied", [True, False])
def test_tying_shares_one_matrix_and_survives_saving(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    for each in (model, AlbefModel.from_pretrained(tmp_path)):
        assert (each.mlm_head.decoder.weight is each.text_encoder.embeddings.word_embeddings.weight) is tied


def test_the_config_of_the_caller_is_left_alone() -> None:
    config = tiny_config(image_encoder=CONV_STEM)
    AlbefModel(config)
    assert config.image_encoder == CONV_STEM


def test_the_image_encoder_keeps_the_weights_it_came_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trained(torch.nn.Module):
        """An encoder that brings weights of its own, such as a pre-trained one."""

        width = 24
        config = CONV_STEM

        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 24, 8)
            torch.nn.init.constant_(self.convolution.weight, 7.0)

    monkeypatch.setattr("truepair.models.fusion.albef.build_image_encoder", lambda config: Trained())
    assert (AlbefModel(tiny_config()).image_encoder.convolution.weight == 7.0).all()


def test_forward_equals_its_parts() -> None:
    model = tiny_model(itm_product=True)
    pixels, ids, mask = batch()
    with torch.no_grad():
        output = model(pixels, ids, mask)
        image_states, text_states = model.image_encoder(pixels), model.text_encoder(ids, mask)
        image = F.normalize(model.image_projection(image_states[:, 0]), dim=1)
        text = F.normalize(model.text_projection(text_states[:, 0]), dim=1)
        fused = model.fuse(text_states, mask, model.image_keys_values(image_states))
        torch.testing.assert_close(output.image.features, image)
        torch.testing.assert_close(output.text.features, text)
        torch.testing.assert_close(output.fused, fused)
        torch.testing.assert_close(output.itm_logits, model.match(fused, image, text))


def test_mean_pooling_skips_padding() -> None:
    model = tiny_model(image_pooling="mean", text_pooling="mean")
    pixels, ids, mask = batch()
    with torch.no_grad():
        image, text = model.encode_images(pixels), model.encode_texts(ids, mask)
        for row in range(len(ids)):
            pooled = text.states[row][mask[row].bool()].mean(dim=0)
            torch.testing.assert_close(text.features[row], F.normalize(model.text_projection(pooled), dim=0))
        expected = F.normalize(model.image_projection(image.states.mean(dim=1)), dim=1)
        torch.testing.assert_close(image.features, expected)


def test_temperature_is_clamped_and_does_not_drift_away() -> None:
    model = tiny_model()
    assert model.temperature.item() == pytest.approx(0.07)
    model.temperature.backward()
    assert model.temp.grad == 1
    model.temp.data.fill_(2.0)
    assert model.temperature.item() == 0.5
    model.clamp_temperature_()
    assert model.temp.item() == 0.5
    model.temp.data.fill_(-1.0)
    model.clamp_temperature_()
    assert model.temp.item() == model.temperature.item() == pytest.approx(0.001)
    assert model.temp.requires_grad


def test_every_parameter_learns() -> None:
    model = tiny_model()
    pixels, ids, mask = batch()
    output = model(pixels, ids, mask)
    itc = (output.image.features @ output.text.features.T / model.temperature).logsumexp(dim=1).sum()
    mlm = model.predict_tokens(output.fused, mask.bool()).logsumexp(dim=1).sum()
    (itc + mlm + output.itm_logits.square().sum()).backward()
    still = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert still == []


def test_bfloat16_autocast_is_finite_and_close() -> None:
    model = tiny_model()
    pixels, ids, mask = batch()
    with torch.no_grad():
        expected = model(pixels, ids, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(pixels, ids, mask)
    assert found.itm_logits.isfinite().all()
    torch.testing.assert_close(found.image.features.float(), expected.image.features, rtol=0.1, atol=0.05)


def test_dropout_draws_only_in_training() -> None:
    model = tiny_model()
    pixels, ids, mask = batch()
    assert torch.equal(model(pixels, ids, mask).fused, model(pixels, ids, mask).fused)
    model.train()
    assert not torch.equal(model(pixels, ids, mask).fused, model(pixels, ids, mask).fused)
