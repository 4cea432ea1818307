from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.tiny_albef import batch as tiny_batch
from tests.models.tiny_albef import tiny_model
from truepair.data.pairs import PairBatch
from truepair.data.tasks.nlvr2 import Nlvr2Batch
from truepair.errors import ConfigError
from truepair.models.fusion.nlvr2 import Nlvr2Model, draw_assignment

OPTIONS: list[dict[str, Any]] = [
    {"shared_cross_attention": True},
    {"shared_cross_attention": False},
    {"shared_cross_attention": False, "image_merge": "mean"},
]
IDS = ["shared", "own", "own, mean"]
ROWS = torch.tensor([[0, 1], [1, 0], [2, 2], [1, 2]])


def tiny_nlvr2(**fields: Any) -> Nlvr2Model:
    torch.manual_seed(4)
    return Nlvr2Model.from_albef(tiny_model(), **fields).eval()


def make_batch(rows: torch.Tensor = ROWS) -> Nlvr2Batch:
    pixels, ids, mask = tiny_batch(rows=len(rows))
    return Nlvr2Batch(
        pixel_values=pixels[:3],
        image_index=torch.arange(3),
        image_rows=rows,
        input_ids=ids,
        attention_mask=mask,
        labels=torch.arange(len(rows)) % 2,
        index=torch.arange(len(rows)),
        statements=[f"statement {number}" for number in range(len(rows))],
    )


def pairs(count: int = 5) -> PairBatch:
    pixels, ids, mask = tiny_batch(rows=count)
    numbers = torch.arange(count)
    return PairBatch(pixels, ids, mask, numbers, numbers, numbers, numbers, numbers, [""] * count, [""] * count)


@pytest.mark.parametrize("fields", OPTIONS, ids=IDS)
@torch.no_grad()
def test_of_two_equal_images_it_makes_what_the_checkpoint_makes_of_one(fields: dict[str, Any]) -> None:
    albef, model = tiny_model(), tiny_nlvr2(**fields)
    images = torch.tensor([0, 1, 2, 1])
    batch = make_batch(torch.stack([images, images], dim=1))
    states = albef.image_states(batch.pixel_values)
    text = albef.text_states(batch.input_ids, batch.attention_mask)
    expected = albef.fuse(text, batch.attention_mask, albef.image_keys_values(states), images)[:, 0]
    found = model.fuse(states, text, batch.attention_mask, batch.image_rows)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def unlike(model: Nlvr2Model) -> None:
    """Weights as after some training: no two parts alike."""
    torch.manual_seed(9)
    for weight in model.fusion_encoder.parameters():
        weight.add_(torch.randn_like(weight) * 0.2)


@pytest.mark.parametrize("fields", OPTIONS, ids=IDS)
@torch.no_grad()
def test_equals_layers_spelled_out_for_each_statement(fields: dict[str, Any]) -> None:
    model, batch = tiny_nlvr2(**fields), make_batch()
    unlike(model)
    found = model.judge(batch)
    for row in range(len(batch)):
        length = int(batch.attention_mask[row].sum())
        mask = torch.ones(1, length, dtype=torch.int64)
        states = model.text_states(batch.input_ids[row : row + 1, :length], mask)
        left, right = (model.image_states(batch.pixel_values[image][None]) for image in batch.image_rows[row])
        for layer in model.fusion_encoder.layers:
            states = layer.self_attention(states, *layer.self_attention.keys_values(states))
            first, second = layer.cross_attentions[0], layer.cross_attentions[-1]
            seen = [first(states, *first.keys_values(left)), second(states, *second.keys_values(right))]
            states = layer.feed_forward(sum(seen) / 2 if layer.merge is None else layer.merge(torch.cat(seen, dim=2)))
        torch.testing.assert_close(found[row], model.classifier(states[0, 0]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_left_is_not_right() -> None:
    model = tiny_nlvr2()
    unlike(model)
    logits = model.judge(make_batch())
    swapped = model.judge(make_batch(ROWS.flip(1)))
    assert ((logits - swapped).abs().amax(dim=1) > 1e-3).tolist() == [True, True, False, True]


def test_loss_and_prediction() -> None:
    model, batch = tiny_nlvr2(), make_batch()
    logits = model.judge(batch)
    torch.testing.assert_close(model.loss(batch), F.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(model.predict(batch), logits.detach().softmax(dim=1)[:, 1])
    states = model.image_states(batch.pixel_values)
    torch.testing.assert_close(model.judge(batch, states), logits)


@torch.no_grad()
def test_assignment_reads_the_drawn_images() -> None:
    model, batch = tiny_nlvr2(assignment_head=True), pairs()
    drawn = draw_assignment(~torch.eye(5, dtype=torch.bool), torch.Generator().manual_seed(3))
    losses = []
    for text, rows, label in zip(drawn.texts, drawn.images, drawn.labels, strict=True):
        states = model.image_states(batch.pixel_values[rows])
        ids, mask = batch.input_ids[text][None], batch.attention_mask[text][None]
        fused = model.fuse(states, model.text_states(ids, mask), mask, torch.tensor([[0, 1]]))
        losses.append(F.cross_entropy(model.assignment(fused)[0], label))
    found = model.assignment_loss(batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    states = model.image_states(batch.pixel_values), model.text_states(batch.input_ids, batch.attention_mask)
    given = model.assignment_loss(batch, torch.Generator().manual_seed(3), *states)
    torch.testing.assert_close(given, found, rtol=1e-4, atol=1e-5)


def test_assignment_of_pairs_that_are_all_alike_costs_nothing() -> None:
    model, batch = tiny_nlvr2(assignment_head=True), pairs(3)
    batch.caption_key.fill_(1)
    loss = model.assignment_loss(batch, torch.Generator().manual_seed(3))
    assert float(loss) == 0
    loss.backward()


@pytest.mark.parametrize("fields", OPTIONS, ids=IDS)
def test_every_weight_is_trained(fields: dict[str, Any]) -> None:
    model = tiny_nlvr2(**fields).train()
    model.loss(make_batch()).backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle


@pytest.mark.parametrize("fields", OPTIONS, ids=IDS)
def test_a_saved_model_comes_back_bit_for_bit(fields: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_nlvr2(**fields)
    model.save_pretrained(tmp_path)
    loaded, info = Nlvr2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_after_text_assignment_its_head_is_left_behind(tmp_path: Path) -> None:
    model = tiny_nlvr2(assignment_head=True)
    model.save_pretrained(tmp_path)
    loaded, info = Nlvr2Model.from_pretrained(tmp_path, assignment_head=False, output_loading_info=True)
    assert loaded.assignment is None and not info["missing_keys"]
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_merge is 'sum'"):
        tiny_nlvr2(image_merge="sum")
    with pytest.raises(ConfigError, match="no left and right"):
        tiny_nlvr2(image_merge="mean")
