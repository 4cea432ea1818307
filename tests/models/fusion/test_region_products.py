"""What words and image regions have in common, as an input of the fusion encoder."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.models.tiny_albef import batch, tiny_config, tiny_model
from truepair.errors import ConfigError
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.vqa import VqaModel

OPTIONS = {"region_products": True, "image_pooling": "mean", "text_pooling": "mean"}
ROWS = torch.tensor([2, 0, 2])


def fused(model: AlbefModel, texts: torch.Tensor, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return model.fuse(texts, mask, model.image_keys_values(images), ROWS)


@torch.no_grad()
def test_at_first_nothing_changes() -> None:
    model = AlbefModel(tiny_config(**OPTIONS)).eval()
    pixels, ids, mask = batch()
    texts, images = model.text_states(ids, mask), model.image_states(pixels)
    found = fused(model, texts, images, mask)
    plain = model.fusion_encoder(texts, mask, model.fusion_encoder.image_keys_values(images), ROWS)
    assert torch.equal(found, plain)


@torch.no_grad()
def test_a_word_attends_to_the_regions_that_itc_finds_alike() -> None:
    model = tiny_model(**OPTIONS).eval()
    products = model.region_products
    for parameter in products.parameters():
        torch.nn.init.normal_(parameter)
    pixels, ids, mask = batch()
    texts, images = model.text_states(ids, mask), model.image_states(pixels)
    temperature = float(model.temperature)

    def common(row: int, place: int) -> torch.Tensor:
        word = F.normalize(model.text_projection(texts[row, place]), dim=-1)
        regions = [F.normalize(model.image_projection(state), dim=-1) for state in images[ROWS[row]]]
        weights = torch.tensor([float(word @ region) / temperature for region in regions]).softmax(0)
        found = sum(weight * region for weight, region in zip(weights, regions, strict=True))
        product = word * found * math.sqrt(len(word))
        return torch.cat([product, product.sum()[None]])

    words, of_captions = texts.clone(), []
    for row in range(3):
        length = int(mask[row].sum())
        mean = sum(common(row, place) for place in range(1, length)) / (length - 1)
        words[row, 0] += products.of_words(mean)
        for place in range(1, length):
            words[row, place] += products.of_words(common(row, place))
        of_captions.append(products.of_captions(mean))
    expected = model.fusion_encoder(words, mask, model.fusion_encoder.image_keys_values(images), ROWS)
    expected[:, 0] += torch.stack(of_captions)
    found = fused(model, texts, images, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
    short = model.fuse(texts, mask, model.image_keys_values(images), ROWS, cls_only=True)
    torch.testing.assert_close(short, found[:, :1], rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_space_of_itc() -> None:
    model = tiny_model(**OPTIONS).train()
    pixels, ids, mask = batch()
    model.match(fused(model, model.text_states(ids, mask), model.image_states(pixels), mask)).sum().backward()
    projections = [*model.image_projection.parameters(), *model.text_projection.parameters(), model.temp]
    assert all(parameter.grad is None for parameter in projections)
    assert all(parameter.grad is not None for parameter in model.region_products.parameters())


@torch.no_grad()
def test_saving_and_loading_keeps_the_maps(tmp_path: Path) -> None:
    model = tiny_model(**OPTIONS).eval()
    torch.nn.init.normal_(model.region_products.of_words.weight)
    model.save_pretrained(tmp_path)
    loaded = AlbefModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.region_products.of_words.weight, model.region_products.of_words.weight)


def test_it_needs_features_of_single_states() -> None:
    with pytest.raises(ConfigError, match="mean"):
        tiny_model(region_products=True, image_pooling="cls", text_pooling="mean")
    with pytest.raises(ConfigError, match="retrieval alone"):
        VqaModel.from_albef(tiny_model(**OPTIONS))
