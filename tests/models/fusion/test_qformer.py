"""The Q-Former with shared work computes what transformers' layers compute row by row, and so are its gradients."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.models import Blip2FusionModel
from truepair.models.checkpoints.blip2 import new_blip2
from truepair.models.fusion.blip import with_start
from truepair.models.fusion.qformer import caption_mask

IMAGES, ROWS, LENGTH, QUERIES, WIDTH, START = 5, 40, 7, 3, 32, 39


def blip2(**qformer: Any) -> Blip2FusionModel:
    """Three layers, of which the second does not look at images."""
    vision = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    fields = {"num_query_tokens": QUERIES, "vision_config": vision}
    options = fields | {"qformer_config": text | {"cross_attention_frequency": 2, "initializer_range": 0.3} | qformer}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = new_blip2("tiny", options, START + 1, START).double()
        for weight in model.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image states, ids, mask, and the image of each row; captions of many lengths, images of none to many rows."""
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(IMAGES, 4, 24, dtype=torch.float64, generator=draw)
    lengths = torch.randint(2, LENGTH + 1, (ROWS, 1), generator=draw)
    mask = (torch.arange(LENGTH) < lengths).long()
    ids = torch.randint(3, 30, (ROWS, LENGTH), generator=draw)
    return states, ids, mask, torch.randint(0, IMAGES - 1, (ROWS,), generator=draw)


Outputs = tuple[Tensor, Tensor, Tensor]
"""Image features [I, Q, E], ITM logits [R, 2], ITG logits [P, V]."""


def shared(model: Blip2FusionModel) -> Outputs:
    states, ids, mask, rows = given()
    features, keys_values = model.read_images(states)
    words = model.text_states(ids, mask)
    logits = model.match(model.fuse(words, mask, keys_values, rows, cls_only=True))
    return features, logits, model.predict_next(ids, mask, keys_values, rows, mask.bool())


def plain(model: Blip2FusionModel) -> Outputs:
    """Three passes of transformers' Q-Former, a row with a copy of its image's states, and the mask of the paper."""
    states, ids, mask, rows = given()
    inner, total = model.model, QUERIES + LENGTH
    alone = inner.qformer(inner.query_tokens.expand(IMAGES, -1, -1), encoder_hidden_states=states).last_hidden_state
    queries = inner.query_tokens.expand(ROWS, -1, -1)
    everything = torch.cat([mask.new_ones(ROWS, QUERIES), mask], dim=1)
    fused = inner.qformer(
        inner.embeddings(input_ids=ids, query_embeds=queries),
        query_length=QUERIES,
        attention_mask=everything,
        encoder_hidden_states=states[rows],
    ).last_hidden_state[:, :QUERIES]
    place = torch.arange(total)
    sees = (place[None] < QUERIES) | ((place[:, None] >= place[None]) & (place[:, None] >= QUERIES))
    hidden = ~(sees[None] & everything.bool()[:, None])
    written = inner.qformer(
        inner.embeddings(input_ids=with_start(ids, START), query_embeds=queries),
        query_length=QUERIES,
        attention_mask=torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)[:, None].double(),
        encoder_hidden_states=states[rows],
    ).last_hidden_state[:, QUERIES:]
    logits = model.itg_head(written[mask.bool()], inner.embeddings.word_embeddings.weight)
    return F.normalize(inner.vision_projection(alone), dim=-1), model.match(fused), logits


def gradients(model: Blip2FusionModel, outputs: Outputs) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    model.zero_grad()
    parts = [(part * torch.randn(part.shape, dtype=part.dtype, generator=draw)).sum() for part in outputs]
    torch.stack(parts).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_outputs_and_gradients_are_those_of_transformers() -> None:
    model = blip2()
    found, expected = shared(model), plain(model)
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, atol=1e-9, rtol=1e-9)
        assert other.std() > 1e-2
    ours, theirs = gradients(model, found), gradients(model, expected)
    assert ours.keys() == theirs.keys() and "model.query_tokens" in ours
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-9, rtol=1e-7)
        assert gradient.abs().max() > 1e-6 or name.endswith("key.bias"), name  # attention does not depend on that


def test_layers_that_are_computed_again_have_the_same_gradients() -> None:
    """Of the same draws of dropout: the generator starts alike, and what is computed again repeats them."""
    found = []
    for again in (False, True):
        model = blip2(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found.append(gradients(model, shared(model)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-12, rtol=1e-9)


def test_an_image_is_read_once_for_all_its_rows() -> None:
    model, rows_of = blip2(), Counter[str]()

    def count(name: str) -> Any:
        return lambda _, inputs, __: rows_of.update({name: len(inputs[0])})

    for name, module in model.model.qformer.named_modules():
        if name.endswith(("crossattention.attention.key", "crossattention.attention.value", "intermediate_query")):
            module.register_forward_hook(count(name))
    shared(model)
    assert rows_of["encoder.layer.0.crossattention.attention.key"] == IMAGES
    assert rows_of["encoder.layer.2.crossattention.attention.value"] == IMAGES
    assert rows_of["encoder.layer.1.intermediate_query"] == IMAGES + ROWS  # ITC and ITM; ITG looks back at ITC's pass


@pytest.mark.parametrize("layers", [1, 2])
def test_few_layers(layers: int) -> None:
    model = blip2(num_hidden_layers=layers)
    for ours, theirs in zip(shared(model), plain(model), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_the_mask_of_captions_is_that_of_the_paper() -> None:
    found = caption_mask(torch.tensor([[1, 1, 0]]), 2)[0]
    assert found.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
