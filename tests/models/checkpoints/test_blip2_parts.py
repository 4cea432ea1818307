"""A BLIP-2 made of parts computes what its parts compute: the ViT or another encoder, and the BERT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM, Blip2ForImageTextRetrieval, ViTConfig, ViTModel

from truepair.errors import CheckpointError, ConfigError
from truepair.models import Blip2FusionModel, build_image_encoder, load_image_encoder
from truepair.models.checkpoints.blip2 import new_blip2
from truepair.models.fusion.blip2_files import TOWER_FILE

TEXT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
FIELDS = {"num_query_tokens": 4, "image_text_hidden_size": 8}


def save_bert(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = BertConfig(**TEXT, vocab_size=50, max_position_embeddings=30, initializer_range=0.4)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


def save_vit(folder: Path) -> Path:
    sizes = {**TEXT, "hidden_size": 32, "image_size": 16, "patch_size": 8, "initializer_range": 0.4}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_vit_becomes_the_vision_model_of_the_class(tmp_path: Path) -> None:
    vision = load_image_encoder(save_vit(tmp_path / "vit"))
    model = new_blip2("tiny", FIELDS, 51, 50, vision=vision).eval()
    assert model.vision is None and model.model.config.vision_config.image_size == 16
    torch.testing.assert_close(model.image_states(pixels()), vision.eval()(pixels()), atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "model")
    _, loading = Blip2ForImageTextRetrieval.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not loading["missing_keys"]


@torch.no_grad()
def test_another_encoder_stands_in_its_place_and_is_saved_beside_the_rest(tmp_path: Path) -> None:
    vision = build_image_encoder({"model_type": "conv_stem", "image_size": 16})
    model = new_blip2("tiny", FIELDS, 51, 50, vision=vision).eval()
    expected = model.encode_images(pixels())
    torch.testing.assert_close(expected.states, vision.eval()(pixels()))
    assert expected.features.shape == (2, 4, 8)
    assert (expected.features.std(dim=1) > 1e-3).any()  # queries start different from each other
    model.save_pretrained(tmp_path)
    again = Blip2FusionModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.encode_images(pixels()).features, expected.features)
    assert model.blank().encode_images(pixels()).features.shape == (2, 4, 8)
    (tmp_path / TOWER_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"has no {TOWER_FILE}, the weights of its image tower"):
        Blip2FusionModel.from_pretrained(tmp_path)


@torch.no_grad()
def test_the_q_former_reads_texts_as_the_bert_it_starts_from(tmp_path: Path) -> None:
    bert = BertForMaskedLM.from_pretrained(save_bert(tmp_path)).eval()
    model = new_blip2("tiny", FIELDS, 51, 50, bert=tmp_path).eval()
    ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(7) < torch.tensor([[7], [4], [5]])).long()
    states = model.text_states(ids, mask)[..., :24]
    expected: Any = bert.bert(ids, mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    words = model.model.embeddings.word_embeddings.weight
    logits = model.itg_head(expected, words)[..., :50]
    torch.testing.assert_close(logits, bert.cls(expected), atol=1e-5, rtol=1e-5)
    assert not model.itg_fresh and model.model.config.qformer_config.num_hidden_layers == 3
    fewer = new_blip2("tiny", FIELDS | {"qformer_config": {"num_hidden_layers": 2}}, 51, 50, bert=tmp_path)
    assert len(fewer.model.qformer.encoder.layer) == 2
    for layer in fewer.model.qformer.encoder.layer:
        assert torch.equal(layer.intermediate.dense.weight, layer.intermediate_query.dense.weight)


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ("huge", {}, "there is no model size 'huge'; give tiny, small, base"),
        ("tiny", {"text_layers": 2}, "BLIP-2 has no field 'text_layers'"),
        ("tiny", {"qformer_config": {"num_layers": 2}}, "Blip2QFormerConfig has no field 'num_layers'"),
        ("tiny", {"qformer_config": 3}, "model.options.qformer_config is 3; give fields of Blip2QFormerConfig"),
        ("tiny", {"qformer_config": {"vocab_size": 9}}, "vocab_size is that of the tokenizer; drop it"),
        ("tiny", {"qformer_config": {"num_attention_heads": 5}}, "no BLIP-2 can be made of them"),
    ],
)
def test_sizes_and_fields_that_do_not_exist_are_named(size: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        new_blip2(size, options, 51, None)


def test_a_bert_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save_bert(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "bert"
    with pytest.raises(CheckpointError, match="knows 50 tokens and the tokenizer 20"):
        new_blip2("tiny", FIELDS, 20, None, bert=tmp_path)
    deeper = FIELDS | {"qformer_config": {"num_hidden_layers": 4}}
    with pytest.raises(CheckpointError, match="which the Q-Former needs: use fewer layers"):
        new_blip2("tiny", deeper, 51, None, bert=tmp_path)
    wider = FIELDS | {"qformer_config": {"intermediate_size": 48}}
    with pytest.raises(CheckpointError, match="give the model the sizes of the checkpoint"):
        new_blip2("tiny", wider, 51, None, bert=tmp_path)
