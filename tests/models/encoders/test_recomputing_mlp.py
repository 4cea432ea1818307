"""Recomputing feed-forward blocks compute what the plain ones do, and keep less."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from truepair.models.encoders.recomputing import recompute_mlps

FIELDS = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2}
FIELDS |= {"num_attention_heads": 2, "intermediate_size": 96}


def kept(model: nn.Module, pixels: Tensor) -> tuple[int, Tensor, dict[str, Tensor], int]:
    """Bytes of activations kept for the backward pass, states, gradients, and operations of both passes."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = model(pixel_values=pixels).last_hidden_state
        states.sin().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return sum(storages.values()), states, gradients, counter.get_total_flops()


@pytest.mark.parametrize("kind", ["vit", "clip_vision_model", "siglip_vision_model"])
def test_recomputing_blocks_are_the_same_and_repeat_no_product(kind: str) -> None:
    torch.manual_seed(0)
    plain = AutoModel.from_config(AutoConfig.for_model(kind, **FIELDS)).train()
    recomputing = copy.deepcopy(plain)
    assert recompute_mlps(recomputing) >= 2  # the pooling head of SigLIP has one too
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    pixels = torch.randn(3, 3, 16, 16)
    bytes_of_plain, states, gradients, operations = kept(plain, pixels)
    new_bytes, new_states, new_gradients, new_operations = kept(recomputing, pixels)
    assert torch.equal(states, new_states)
    assert gradients.keys() == new_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(new_gradients[name], gradient, msg=name)
    assert new_operations == operations
    assert new_bytes < 0.85 * bytes_of_plain


def test_other_blocks_stay() -> None:
    class Block(nn.Module):
        def __init__(self, **parts: Any) -> None:
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

    more = Block(fc1=nn.Linear(2, 4), activation_fn=nn.GELU(), fc2=nn.Linear(4, 2), dropout=nn.Dropout(0.1))
    assert recompute_mlps(Block(mlp=more)) == 0
