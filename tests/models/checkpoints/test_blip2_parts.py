"""A BLIP-2 made of parts computes what its parts compute: the ViT or another encoder, and the BERT."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, BertConfig, BertForMaskedLM, Blip2ForImageTextRetrieval, ViTConfig, ViTModel

from truepair.errors import CheckpointError, ConfigError
from truepair.models import Blip2FusionModel, build_image_encoder, load_image_encoder
from truepair.models.checkpoints.blip2 import new_blip2, part_queries
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
        ("tiny", {"itm_product": "yes"}, "model.options.itm_product is 'yes'; give true or false"),
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


def test_a_small_q_former_from_random_weights_learns_to_match_soon() -> None:
    """Eight images and the word of each: with the spread of BERT-base it stays at chance, 0.69, for long."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = {"image_size": 8, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
        still = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
        model = new_blip2("tiny", FIELDS | {"vision_config": vision, "qformer_config": still}, 20, None)
        shown = torch.randn(8, 1, 32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(60):
            kinds = torch.randint(8, (32,))
            ids = torch.stack([torch.ones_like(kinds), kinds + 2, torch.randint(12, 20, (32,))], dim=1).repeat(2, 1)
            rows = torch.cat([torch.arange(32), torch.arange(32).roll(1)])
            mask = torch.ones_like(ids)
            keys_values = model.image_keys_values(shown[kinds])
            logits = model.match(model.fuse(model.text_states(ids, mask), mask, keys_values, rows))
            loss = F.cross_entropy(logits, (kinds[rows] == kinds.repeat(2)).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.4


@torch.no_grad()
def test_itm_hears_the_product_with_the_best_query() -> None:
    model = new_blip2("tiny", FIELDS | {"itm_product": True}, 51, 50).eval()
    assert model.itm_product is not None
    fused, images = torch.randn(3, 4, 128), F.normalize(torch.randn(3, 4, 8), dim=-1)
    texts = F.normalize(torch.randn(3, 8), dim=-1)
    alone = model.model.itm_head(fused).mean(dim=1)
    torch.testing.assert_close(model.match(fused, images, texts), alone)  # it starts at zero
    model.itm_product.linear.weight.normal_()
    for row, text in enumerate(texts):
        best = max(images[row], key=lambda query: float(query @ text))
        expected = alone[row] + model.itm_product.linear.weight @ (best * text) * 8
        torch.testing.assert_close(model.match(fused, images, texts)[row], expected)
    with pytest.raises(ConfigError, match="itm_product is on: pass image_feature and text_feature"):
        model.match(fused)


def test_queries_are_drawn_where_they_are_all_alike_alone() -> None:
    zero, alike, one = torch.zeros(1, 1, 4), torch.ones(1, 3, 4), torch.ones(1, 1, 4)
    assert part_queries(zero) and zero.any()
    assert part_queries(alike) and not torch.equal(alike[:, 0], alike[:, 1])
    assert not part_queries(one) and torch.equal(one, torch.ones(1, 1, 4)), "a single query has nobody to be like"
    trained = alike.clone()
    assert not part_queries(alike) and torch.equal(alike, trained)
