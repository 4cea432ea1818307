"""Recomputing layers compute what the plain ones do, repeat no product, and keep less still."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from tests.models.encoders.test_recomputing_mlp import FIELDS, kept
from truepair.models.encoders.recomputing import RecomputingLayer, recompute_layers, recompute_mlps

WITH_DROPOUT = [
    ("vit", "hidden_dropout_prob"),
    ("vit", "attention_probs_dropout_prob"),
    ("clip_vision_model", "attention_dropout"),
]


@pytest.mark.parametrize("kind", ["vit", "deit", "clip_vision_model", "siglip_vision_model"])
def test_recomputing_layers_are_the_same_and_repeat_no_product(kind: str) -> None:
    torch.manual_seed(0)
    plain = AutoModel.from_config(AutoConfig.for_model(kind, **FIELDS)).train()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases and the weights of norms as well
    of_mlps, recomputing = copy.deepcopy(plain), copy.deepcopy(plain)
    recompute_mlps(of_mlps)
    recompute_mlps(recomputing)
    assert recompute_layers(recomputing) == 2
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    pixels = torch.randn(3, 3, 16, 16)
    _, states, gradients, operations = kept(plain, pixels)
    bytes_of_mlps, *_ = kept(of_mlps, pixels)
    new_bytes, new_states, new_gradients, new_operations = kept(recomputing, pixels)
    torch.testing.assert_close(new_states, states, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == new_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(new_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert new_operations == operations
    assert new_bytes < 0.95 * bytes_of_mlps
    with torch.no_grad():
        assert torch.equal(recomputing(pixel_values=pixels).last_hidden_state, new_states)


@pytest.mark.parametrize(("kind", "field"), WITH_DROPOUT)
def test_layers_with_dropout_stay(kind: str, field: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(kind, **FIELDS, **{field: 0.1}))
    recompute_mlps(model)
    assert recompute_layers(model) == 0


def test_a_projection_with_an_adapter_is_called() -> None:
    class Adapted(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    model = AutoModel.from_config(AutoConfig.for_model("vit", **FIELDS))
    recompute_mlps(model)
    recompute_layers(model)
    layer = next(module for module in model.modules() if isinstance(module, RecomputingLayer))
    states = torch.randn(2, 5, 24)
    before = layer(states)
    layer.attention.q_proj.__class__ = Adapted
    assert not torch.allclose(layer(states), before)
