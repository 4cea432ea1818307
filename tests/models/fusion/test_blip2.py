"""BLIP-2 stage 1 is `Blip2ForImageTextRetrieval` of transformers, number by number, and is saved as that."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, Blip2ForImageTextRetrieval

from tests.judges.tiny_judges import save_blip2
from truepair.data.open import open_pairs
from truepair.errors import CheckpointError, ConfigError
from truepair.models import Blip2FusionModel
from truepair.models.fusion.blip import log_scale, stated_temperature
from truepair.models.fusion.blip2 import HEAD_FILE
from truepair.models.open import open_model
from truepair.relations.similarity import similarities

CAPTIONS = ["a small red square", "green", "a large blue square in the middle", "white"]


@pytest.fixture(scope="module")
def folder(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2"), open_pairs(squares / "pairs.jsonl"))


def opened(folder: Path) -> Blip2FusionModel:
    model = open_model(folder).model
    assert isinstance(model, Blip2FusionModel)
    return model


def pixels() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def tokens(folder: Path) -> tuple[Tensor, Tensor]:
    made = AutoTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    return made["input_ids"], made["attention_mask"]


@torch.no_grad()
def test_features_similarities_and_itm_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = opened(folder), Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    ids, mask = tokens(folder)
    images, texts = ours.encode_images(pixels()), ours.encode_texts(ids, mask)
    said: Any = theirs(pixel_values=pixels(), input_ids=ids, attention_mask=mask)
    assert images.features.shape == (4, ours.vectors_per_image, ours.embed_dim) == (4, 3, 8)
    torch.testing.assert_close(images.features, said.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts.features, said.text_embeds, atol=1e-5, rtol=0)
    found = similarities(images.features, texts.features)
    torch.testing.assert_close(found, said.logits_per_image, atol=1e-5, rtol=0)
    assert found.std() > 1e-3 and (images.features.std(dim=1) > 1e-3).all()  # queries differ, and so do pairs

    keys_values = ours.image_keys_values(images.states)
    rows = torch.tensor([3, 0, 0, 2])
    logits = ours.match(ours.fuse(texts.states, mask, keys_values, rows, cls_only=True))
    judged: Any = theirs(pixels()[rows], ids, mask, use_image_text_matching_head=True)
    torch.testing.assert_close(logits, judged.logits_per_image, atol=1e-5, rtol=0)
    assert logits.std(dim=0).min() > 1e-4


@torch.no_grad()
def test_itg_is_a_loop_that_shows_each_word_what_it_may_see(folder: Path) -> None:
    """Each place is read by itself: queries of the image alone, then the words so far, with a plain mask."""
    ours = opened(folder)
    ids, mask = tokens(folder)
    states = ours.image_states(pixels())
    rows = torch.tensor([1, 0, 3, 3])
    every = mask.bool()
    found = ours.predict_next(ids, mask, ours.image_keys_values(states), rows, every)
    model, expected = ours.model, []
    for row, image in enumerate(rows):
        for place in range(int(mask[row].sum())):
            hidden = _by_hand(ours, ids[row, : place + 1], states[image])
            expected.append(ours.itg_head(hidden, model.embeddings.word_embeddings.weight))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    assert found[:, 1:].std(dim=0).min() > 1e-4  # the padding token has no embedding


def _by_hand(ours: Blip2FusionModel, ids: Tensor, image: Tensor) -> Tensor:
    """The state of the last of some tokens [L] with image states [N, W]: layer by layer, the queries without words.

    The queries' states come from passes without any text; a word sees them, itself and the words before it.
    """
    qformer: Any = ours.model.qformer
    queries = qformer.layernorm(ours.model.query_tokens)  # [1, Q, D]
    words = qformer.layernorm(ours.model.embeddings(input_ids=ids[None]))  # [1, L, D]
    count = queries.shape[1]
    for layer in qformer.encoder.layer:
        together = torch.cat([queries, words], dim=1)
        seen = [
            layer.attention(together[:, : count + place + 1])[:, -1:]  # the last one sees all that are shown
            for place in range(words.shape[1])
        ]
        words = layer.feed_forward_chunk(torch.cat(seen, dim=1))
        queries = layer(queries, None, image[None], query_length=count)
    return words[0, -1]


def test_a_temperature_comes_back_from_a_config_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    for temperature in (0.001 + 0.499 * torch.rand(2000, generator=generator)).unbind():
        assert torch.equal(stated_temperature(json.loads(json.dumps(log_scale(temperature)))), temperature)


def test_it_is_saved_as_transformers_reads_it_and_as_it_was(folder: Path, tmp_path: Path) -> None:
    ours = opened(folder)
    assert ours.itg_fresh and ours.temperature.item() == pytest.approx(0.07)
    with torch.no_grad():
        for weights in ours.parameters():
            weights.add_(0.01)
        ours.temp.fill_(0.1234)
    ours.save_pretrained(tmp_path)
    open_model(folder).preprocessing.save(tmp_path)
    again = opened(tmp_path)
    assert not again.itg_fresh
    theirs, loading = Blip2ForImageTextRetrieval.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        if name.startswith("model."):
            assert torch.equal(theirs.state_dict()[name.removeprefix("model.")], tensor), name
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Blip2ForImageTextRetrieval"]
    blank = ours.blank()
    assert {name: part.shape for name, part in blank.state_dict().items()} == {
        name: part.shape for name, part in ours.state_dict().items()
    }


def test_a_head_of_another_model_and_masked_words_are_named(folder: Path, tmp_path: Path) -> None:
    ours = opened(folder)
    ours.save_pretrained(tmp_path)
    open_model(folder).preprocessing.save(tmp_path)
    save_file({"bias": torch.zeros(3)}, tmp_path / HEAD_FILE)
    with pytest.raises(CheckpointError, match=f"{HEAD_FILE} is of another model; give a whole one"):
        open_model(tmp_path)
    with pytest.raises(ConfigError, match=r"guesses no masked words; set objectives.mlm.weight to 0"):
        ours.predict_tokens(torch.zeros(1, 3, 32), torch.ones(1, 3, dtype=torch.bool))


def test_the_gradient_of_a_similarity_is_its_best_querys_alone(folder: Path) -> None:
    ours = opened(folder)
    ids, mask = tokens(folder)
    features = ours.encode_images(pixels()).features.detach().requires_grad_()
    texts = ours.encode_texts(ids, mask).features.detach()
    similarities(features, texts).sum().backward()
    best = (features.detach() @ texts.T).argmax(dim=1)  # [I, T]
    expected = torch.zeros_like(features)
    for image in range(4):
        for text in range(4):
            expected[image, best[image, text]] += texts[text]
    torch.testing.assert_close(features.grad, expected)
    assert F.normalize(features, dim=-1).allclose(features)
