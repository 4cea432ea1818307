"""Layers of vision models that keep as little for the backward pass as can be had without repeating a product."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.models.lean_mlp import LeanMlp
from truepair.models.remade import remade


class _Names(NamedTuple):
    """What a family of models calls the parts of a layer."""

    norm: str
    attention: str
    output: str
    mlp_norm: str


_FAMILIES = (
    _Names("layernorm_before", "attention", "o_proj", "layernorm_after"),  # ViT, DeiT
    _Names("layer_norm1", "self_attn", "out_proj", "layer_norm2"),  # CLIP, SigLIP
)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class LeanLayer(GradientCheckpointingLayer):
    """LayerNorm, attention, residual, LayerNorm, feed-forward, residual, as in ViT; names of weights stay.

    As a rule, what each LayerNorm makes is kept for the products that read it. Here it is made again in the backward
    pass; so is the activation of the feed-forward block, see `LeanMlp`. Attention is torch's fused one, whatever
    implementation the model was told to use.

    Args:
        layer: The layer to stand in for, which has no dropout and whose feed-forward block is a `LeanMlp`.
        names: What its parts are called.
    """

    def __init__(self, layer: nn.Module, names: _Names) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self._names = names
        attention = layer.get_submodule(names.attention)
        self._heads = int(getattr(attention, "num_attention_heads", 0) or attention.num_heads)  # type: ignore[arg-type]

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object) -> Tensor:
        """States [B, N, W] to states [B, N, W]; all states are seen by all, so a mask is None."""
        heads = remade(self._queries_keys_values, hidden_states)  # [B, N, 3 W]
        queries, keys, values = heads.unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, w]
        context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attention_mask)
        attended = self._attention.get_submodule(self._names.output)(context.transpose(1, 2).flatten(2))
        hidden_states = hidden_states + attended
        out: Tensor = hidden_states + self._mlp(hidden_states, self.get_submodule(self._names.mlp_norm))
        return out

    @property
    def _attention(self) -> nn.Module:
        attention: nn.Module = self.get_submodule(self._names.attention)
        return attention

    @property
    def _mlp(self) -> LeanMlp:
        mlp = self.get_submodule("mlp")
        assert isinstance(mlp, LeanMlp)
        return mlp

    def _queries_keys_values(self, states: Tensor) -> Tensor:
        """All three by one product, at the end, so that it is not repeated."""
        projections = [self._attention.get_submodule(name) for name in _PROJECTIONS]
        normed = self.get_submodule(self._names.norm)(states)
        if any(type(projection) is not nn.Linear for projection in projections):  # adapters, for instance
            return torch.cat([projection(normed) for projection in projections], dim=-1)
        weight = torch.cat([projection.weight for projection in projections])  # type: ignore[misc]
        bias = None
        if projections[0].bias is not None:
            bias = torch.cat([projection.bias for projection in projections])  # type: ignore[misc]
        return F.linear(normed, weight, bias)


def make_layers_lean(model: nn.Module) -> int:
    """Replace the layers of a vision model that are of the usual parts and without dropout.

    Args:
        model: Its feed-forward blocks are lean already, see `make_lean`.

    Returns:
        How many layers there are.
    """
    found = [
        (parent, name, child, names)
        for parent in model.modules()
        for name, child in parent.named_children()
        for names in _FAMILIES
        if _fits(child, names)
    ]
    for parent, name, child, names in found:
        setattr(parent, name, LeanLayer(child, names))
    return len(found)


def _fits(layer: nn.Module, names: _Names) -> bool:
    children = dict(layer.named_children())
    if children.keys() - {"dropout"} != {names.norm, names.attention, names.mlp_norm, "mlp"}:
        return False
    parts = {name for name, _ in children[names.attention].named_children()}
    return parts == {*_PROJECTIONS, names.output} and isinstance(children["mlp"], LeanMlp) and not _has_dropout(layer)


def _has_dropout(layer: nn.Module) -> bool:
    """Dropout of states is a module; that of attention is a number, under one of two names."""
    modules = list(layer.modules())
    rates = [getattr(module, name, 0.0) for module in modules for name in ("attention_dropout", "dropout")]
    rates += [module.p for module in modules if isinstance(module, nn.Dropout)]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
