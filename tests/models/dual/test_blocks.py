"""The blocks of a tower are found by what towers have in common, whoever wrote them."""

from collections.abc import Callable

import pytest
from torch import nn
from transformers import PreTrainedModel, SwinConfig, SwinModel

from tests.models.dual.tiny_hub import FAMILIES, seeded
from tests.models.tiny_albef import tiny_model
from truepair.models import DualEncoder, HubDualEncoder
from truepair.models.dual.blocks import TowerBlocks


def hub(family: Callable[[], PreTrainedModel]) -> Callable[[], DualEncoder]:
    return lambda: HubDualEncoder(seeded(family))


MODELS = {family.__name__: hub(family) for family in FAMILIES} | {"albef": tiny_model}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_blocks_stand_between_embeddings_and_what_pools(build: Callable[[], DualEncoder]) -> None:
    model = build()
    for tower in (model.image_tower, model.text_tower):
        found = TowerBlocks(tower)
        names = {weight: name for name, weight in tower.named_parameters()}
        assert len({type(block) for block in found.blocks}) == 1 and len(found) >= 1
        before = {names[weight] for weight in found.first_parameters(0)}
        of_blocks = {names[weight] for block in found.blocks for weight in block.parameters()}
        behind = set(names.values()) - before - of_blocks
        assert before and not before & of_blocks
        assert all("embed" in name or "pre_layrnorm" in name for name in before)
        assert not any("embed" in name for name in of_blocks | behind)
        above = found.layers_above()
        assert {names[weight] for weight in above} == before | of_blocks
        assert {above[weight] for weight in found.first_parameters(0)} == {len(found) + 1}


def test_embeddings_come_first_and_blocks_in_order() -> None:
    tower = tiny_model().text_tower
    found = TowerBlocks(tower)
    first = found.first_parameters(1)
    assert {id(w) for w in first} == {id(w) for part in (tower.embeddings, tower.layers[0]) for w in part.parameters()}
    assert found.first_modules(1) == [tower.embeddings, tower.layers[0]]


def test_stages_are_blocks_and_convolutions_are_none() -> None:
    swin = SwinModel(SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[2, 6], num_heads=[2, 2]))
    assert len(TowerBlocks(swin)) == 2  # not the six blocks within the second stage
    layers = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)))
    tower = nn.Module()
    tower.stem, tower.layers = nn.Conv2d(3, 8, 1), layers
    assert TowerBlocks(tower).blocks == list(layers)
    tower.layers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    assert len(TowerBlocks(tower)) == 0 and TowerBlocks(tower).layers_above() == {}


def test_parameters_of_the_tower_itself_are_embeddings_but_for_its_projection() -> None:
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.model.CustomTextCLIP(
        8,
        {"layers": 3, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
        {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2},
    )
    image, text = TowerBlocks(model.visual), TowerBlocks(model.text)
    assert len(image) == 3 and len(text) == 2
    above = image.layers_above()
    assert above[model.visual.class_embedding] == above[model.visual.ln_pre.weight] == 4
    assert model.visual.proj not in above and model.visual.ln_post.weight not in above
    above = text.layers_above()
    assert above[model.text.positional_embedding] == above[model.text.token_embedding.weight] == 3
    assert model.text.text_projection not in above
    assert image.blocks[0] is model.visual.transformer.resblocks[0]
