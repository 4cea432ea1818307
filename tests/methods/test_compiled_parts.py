"""What a step computes on its device is one graph of `torch.compile`, once the host has decided on relations and rows.

With `fullgraph=True` a break is an error, so such tests count none. A whole step breaks where the host decides.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.methods.steps import Composition, info, pairs, student
from tests.models.dual.families import CAPTIONS, FAMILIES, pictures
from truepair.methods.contrast import Contrast
from truepair.methods.rules import RelationsConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig
from truepair.models.open import OpenedModel, open_model
from truepair.objectives.contrastive import Direction
from truepair.objectives.itm import hardest_negatives, itm_loss, matching_pairs
from truepair.objectives.mlm import mlm_loss
from truepair.relations.actions import Action, Mask, Relabel, Reweight
from truepair.relations.batch import BatchRelations
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import SIDES, PairSet

SIZE = 4


def found(*actions: Action) -> BatchRelations:
    """Each action on a cell of its own, as verdicts of a ledger ask for it."""
    relations = BatchRelations(SIZE)
    for row, action in enumerate(actions):
        cell = PairSet(torch.tensor([row]), torch.tensor([row + 1]), torch.tensor([0.8]), (SIZE, SIZE))
        relations = relations.adding("recorded", cell, action)
    return relations


RELATIONS = {"nothing found": found(), "a ledger": found(Mask(), Reweight(), Relabel())}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    """A small CLIP of transformers."""
    family = next(family for family in FAMILIES if family.name == "clip")
    return open_model(family.save(tmp_path_factory.mktemp("clip")))


def gradients_of(loss: Tensor, weights: list[Tensor]) -> list[Tensor]:
    return [grad for grad in torch.autograd.grad(loss, weights, allow_unused=True) if grad is not None]


def is_one_graph(loss: Callable[..., Tensor], weights: list[Tensor], *inputs: Any) -> None:
    """Loss and gradients of the compiled function are those of the plain one."""
    torch.compiler.reset()
    one, other = loss(*inputs), torch.compile(loss, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(other, one)
    expected, gradients = (gradients_of(value, weights) for value in (one, other))
    assert len(expected) == len(gradients) > 0
    for wanted, gradient in zip(expected, gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", RELATIONS)
def test_both_towers_of_clip_with_the_contrastive_loss(opened: OpenedModel, name: str, kind: str) -> None:
    model, bias = opened.model, torch.tensor(-2.0) if kind == "sigmoid" else None
    rows, columns = (Direction.of_relations(RELATIONS[name], side, 0.1) for side in SIDES)

    def loss(pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        images, texts = model.encode_images(pixels).features, model.encode_texts(ids, mask).features
        return Contrast(model.temperature, bias).loss(images, texts, rows, columns, symmetric=True)

    transform = opened.preprocessing.images()
    pixels = torch.stack([transform(picture) for picture in pictures()[:SIZE]])
    ids, mask = opened.preprocessing.collator().encode(CAPTIONS[:SIZE])
    assert not mask.all()  # some are padded
    is_one_graph(loss, list(model.parameters()), pixels, ids, mask)


def test_a_fusion_model_with_itc_hard_negatives_itm_and_mlm() -> None:
    model, batch = student(), pairs(list(range(SIZE)))
    directions = [Direction.of_relations(RELATIONS["a ledger"], side) for side in SIDES]
    allowed, extra = RELATIONS["a ledger"].allowed(), RELATIONS["a ledger"].matches()
    guessed = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    guessed[:, 1] = True
    words = batch.input_ids[guessed]

    def loss(pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        image_states, text_states = model.image_states(pixels), model.text_states(ids, mask)
        images, _ = model.read_images(image_states)
        texts = model.project_text(text_states, mask)
        itc = Contrast(model.temperature).loss(images, texts, *directions, symmetric=True)
        read = matching_pairs(hardest_negatives(images.detach() @ texts.detach().T, allowed), extra)
        keys_values = model.image_keys_values(image_states)
        fused = model.fuse(text_states[read.texts], mask[read.texts], keys_values, read.images, cls_only=True)
        itm = itm_loss(model.match(fused, images[read.images], texts[read.texts]), read.labels, read.valid)
        told = model.predict_tokens(model.fuse(text_states, mask, keys_values, torch.arange(SIZE)), guessed)
        return itc + itm + mlm_loss(told, words)

    is_one_graph(loss, list(model.parameters()), batch.pixel_values, batch.input_ids, batch.attention_mask)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_whole_step_of_itc_breaks_at_its_rules_alone(loss: Literal["softmax", "sigmoid"], tmp_path: Path) -> None:
    batch = pairs([0, 1, 1, 3, 4, 5], [0, 1, 2, 3, 4, 4])
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.record(batch.image_id[:1], batch.caption_id[3:4], torch.tensor([0.9]), judge="mined:test")
    rules = [
        {"detector": "same_image", "action": "relabel"},
        {"detector": "same_caption", "action": "mask"},
        {"detector": "recorded", "ledger": str(tmp_path / "ledger"), "action": "reweight"},
    ]
    alone = ObjectivesConfig(itc=ItcConfig(loss=loss), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
    step = Composition(objectives=alone, relations=RelationsConfig(rules=rules)).build()
    torch.compiler.reset()
    told = torch._dynamo.explain(step)(batch, info(step=1))
    found = step.counts.read()
    assert {name.partition("/")[2] for name in found} == {
        "same_image/relabel",
        "same_caption/mask",
        "recorded/reweight",
    }
    assert all(found.values())
    assert told.graph_break_count == 2  # at what is found, and at what the loss is to make of it
    assert all("torch.compiler.disable" in reason.reason for reason in told.break_reasons)
