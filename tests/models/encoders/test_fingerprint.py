"""Keys of encoders: equal for equal encoders, however they came to be, and different otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from truepair.models.encoders.fingerprint import combined_key, encoder_fingerprint
from truepair.models.encoders.images import build_image_encoder, load_image_encoder
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

VIT: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
CONV: dict[str, Any] = {"model_type": "conv_stem", "image_size": 32, "hidden_size": 32}
LITE: dict[str, Any] = {"model_type": "efficientnet_lite0", "pretrained": False}


def tiny(image_encoder: dict[str, Any]) -> AlbefModel:
    return AlbefModel(
        AlbefConfig.tiny(image_encoder=image_encoder, vocab_size=20, hidden_size=32, intermediate_size=32)
    )


@pytest.mark.parametrize("config", [VIT, CONV, LITE], ids=lambda config: config["model_type"])
def test_saved_and_loaded_encoders_keep_their_keys(config: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(config)
    model.save_pretrained(tmp_path)
    loaded = AlbefModel.from_pretrained(tmp_path)
    for part in ("image_encoder", "text_encoder"):
        assert encoder_fingerprint(getattr(loaded, part)) == encoder_fingerprint(getattr(model, part))


def test_saved_and_loaded_bert_keeps_its_key(tmp_path: Path) -> None:
    model = BertModel(
        BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    model.save_pretrained(tmp_path)
    assert encoder_fingerprint(BertModel.from_pretrained(tmp_path)) == encoder_fingerprint(model)


def test_checkpoint_and_its_rebuilt_encoder_have_one_key(tmp_path: Path) -> None:
    sizes = {key: VIT[key] for key in VIT if key != "model_type"}
    ViTModel(ViTConfig(**sizes)).save_pretrained(tmp_path)
    encoder = load_image_encoder(tmp_path)
    rebuilt = build_image_encoder(encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert encoder_fingerprint(rebuilt) == encoder_fingerprint(encoder)


def test_training_state_does_not_count_but_weights_do() -> None:
    encoder = build_image_encoder(VIT)
    key = encoder_fingerprint(encoder)
    assert encoder_fingerprint(encoder.eval()) == encoder_fingerprint(encoder.freeze()) == key
    with torch.no_grad():
        next(encoder.parameters())[0] += 1e-4
    assert encoder_fingerprint(encoder) != key


@pytest.mark.parametrize("change", [{"num_attention_heads": 4}, {"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}])
def test_what_weights_do_not_tell_counts(change: dict[str, Any]) -> None:
    encoder = build_image_encoder(VIT)
    other = build_image_encoder({**VIT, **change})
    other.load_state_dict(encoder.state_dict())
    assert encoder_fingerprint(other) != encoder_fingerprint(encoder)


def test_combined_keys_tell_parts_apart() -> None:
    one = torch.ones(2, 3)
    keys = [
        combined_key(a="x", b="y"),
        combined_key(a="xb", b="y"),
        combined_key(a="x", c="y"),
        combined_key(a=b"x", b="y"),
        combined_key(a=one),
        combined_key(a=one.view(3, 2)),
        combined_key(a=one.half()),
        combined_key(a={"size": 32}),
        combined_key(a={"size": 33}),
    ]
    assert len(set(keys)) == len(keys)
    assert combined_key(b="y", a="x") == keys[0]
