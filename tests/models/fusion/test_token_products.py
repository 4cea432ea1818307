"""What words and images have in common, as an input of the fusion layers."""

import math

import torch
import torch.nn.functional as F

from tests.models.tiny_albef import batch, tiny_model
from truepair.models.fusion.nlvr2 import Nlvr2Model
from truepair.models.fusion.vqa import VqaModel


@torch.no_grad()
def test_at_first_nothing_changes() -> None:
    albef = tiny_model()
    for kind in (VqaModel, Nlvr2Model):
        model = kind.from_albef(albef, token_products=True).eval()
        pixels, ids, mask = batch()
        texts, images = albef.text_states(ids, mask), albef.image_states(pixels)
        rows = torch.tensor([[0, 1], [2, 1], [2, 2]])[:, : 2 if kind is Nlvr2Model else 1]
        assert torch.equal(model.token_products(texts, mask, images, rows)[0], texts)


def test_frozen_projections_stay_as_they_are() -> None:
    model = VqaModel.from_albef(tiny_model(), token_products=True).train()
    products = model.token_products
    moving = [name for name, parameter in products.named_parameters() if parameter.requires_grad]
    assert moving == ["merge.weight", "merge.bias"] and products.training and not products.text_projection.training
    free = VqaModel.from_albef(tiny_model(), token_products=True, freeze_projections=False).train().token_products
    assert all(parameter.requires_grad for parameter in free.parameters()) and free.text_projection.training


@torch.no_grad()
def test_products_are_of_the_features_of_itc() -> None:
    albef = tiny_model()
    model = Nlvr2Model.from_albef(albef, token_products=True).eval()
    torch.nn.init.normal_(model.token_products.merge.weight)
    pixels, ids, mask = batch()
    texts, images = albef.text_states(ids, mask), albef.image_states(pixels)
    found, means = model.token_products(texts, mask, images, torch.tensor([[0, 1], [2, 1], [2, 2]]))
    features = albef.project_image(images)
    word = F.normalize(albef.text_projection(texts[1, 3]), dim=-1)
    products = [word * features[image] * math.sqrt(len(word)) for image in (2, 1)]
    common = torch.cat([torch.cat([product, product.sum()[None]]) for product in products])
    expected = texts[1, 3] + model.token_products.merge.weight @ common
    torch.testing.assert_close(found[1, 3], expected, rtol=1e-4, atol=1e-5)
    similarity = F.normalize(albef.text_projection(texts[1, mask[1].bool()]), dim=-1) @ features[2]
    torch.testing.assert_close(means[1, len(word)], similarity.mean() * math.sqrt(len(word)), rtol=1e-4, atol=1e-5)
