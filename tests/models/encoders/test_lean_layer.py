"""Lean layers compute what the plain ones do, repeat no product, and keep less still."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from tests.models.encoders.test_lean_mlp import FIELDS, kept
from truepair.models.encoders.vision_tower import LeanLayer, make_layers_lean, make_lean

WITH_DROPOUT = [
    ("vit", "hidden_dropout_prob"),
    ("vit", "attention_probs_dropout_prob"),
    ("clip_vision_model", "attention_dropout"),
]


@pytest.mark.parametrize("kind", ["vit", "deit", "clip_vision_model", "siglip_vision_model"])
def test_lean_layers_are_the_same_and_repeat_no_product(kind: str) -> None:
    torch.manual_seed(0)
    plain = AutoModel.from_config(AutoConfig.for_model(kind, **FIELDS)).train()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases and the weights of norms as well
    lean_mlp, lean = copy.deepcopy(plain), copy.deepcopy(plain)
    make_lean(lean_mlp)
    make_lean(lean)
    assert make_layers_lean(lean) == 2
    assert list(lean.state_dict()) == list(plain.state_dict())
    pixels = torch.randn(3, 3, 16, 16)
    _, states, gradients, operations = kept(plain, pixels)
    bytes_of_lean_mlp, *_ = kept(lean_mlp, pixels)
    bytes_of_lean, states_of_lean, gradients_of_lean, operations_of_lean = kept(lean, pixels)
    torch.testing.assert_close(states_of_lean, states, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == gradients_of_lean.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_lean[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert operations_of_lean == operations
    assert bytes_of_lean < 0.95 * bytes_of_lean_mlp
    with torch.no_grad():
        assert torch.equal(lean(pixel_values=pixels).last_hidden_state, states_of_lean)


@pytest.mark.parametrize(("kind", "field"), WITH_DROPOUT)
def test_layers_with_dropout_stay(kind: str, field: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(kind, **FIELDS, **{field: 0.1}))
    make_lean(model)
    assert make_layers_lean(model) == 0


def test_a_projection_with_an_adapter_is_called() -> None:
    class Adapted(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    model = AutoModel.from_config(AutoConfig.for_model("vit", **FIELDS))
    make_lean(model)
    make_layers_lean(model)
    layer = next(module for module in model.modules() if isinstance(module, LeanLayer))
    states = torch.randn(2, 5, 24)
    before = layer(states)
    layer.attention.q_proj.__class__ = Adapted
    assert not torch.allclose(layer(states), before)
