"""Layers that keep less for the backward pass: what is cheap to make is made again there, no product of matrices."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

Result = TypeVar("Result", bound=Tensor | tuple[Tensor, ...])


def recomputed(function: Callable[..., Result], *inputs: Tensor, random: bool = False) -> Result:
    """Call a function of tensors, and keep no more than its inputs for the backward pass.

    There the function is called again, but ends as soon as all is there that a gradient needs. So a product of matrices
    at its end is not repeated, and what it reads is not kept.

    Args:
        function: What it draws, it draws from the default generator.
        inputs: What is kept.
        random: Whether it draws random numbers.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Result = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random)
    return result


_MLP_PARTS = {"fc1", "fc2", "activation_fn"}


def recompute_mlps(model: nn.Module) -> int:
    """Replace the feed-forward blocks of a vision model that are linear, activation, linear; returns how many."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if {part for part, _ in child.named_children()} == _MLP_PARTS
    ]
    for parent, name, child in found:
        setattr(parent, name, RecomputingMlp(child))
    return len(found)


def recompute_layers(model: nn.Module) -> int:
    """Replace the layers of a vision model that are of the usual parts and without dropout.

    Args:
        model: Its feed-forward blocks are replaced already, see `recompute_mlps`.

    Returns:
        How many layers were replaced.
    """
    found = [
        (parent, name, child, names)
        for parent in model.modules()
        for name, child in parent.named_children()
        for names in _LAYER_NAMES
        if _fits(child, names)
    ]
    for parent, name, child, names in found:
        setattr(parent, name, RecomputingLayer(child, names))
    return len(found)


class RecomputingMlp(nn.Module):
    """Linear, activation, linear, as in the vision models of transformers; names of weights stay.

    What the activation makes is as wide as what it reads, and both are kept as a rule: a third of a ViT's activations.
    Here it is made again in the backward pass, which costs one activation; no product of matrices is repeated.

    Args:
        mlp: The block to stand in for, with ``fc1``, ``activation_fn`` and ``fc2``.
    """

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        parts = dict(mlp.named_children())
        self.fc1, self.activation_fn, self.fc2 = parts["fc1"], parts["activation_fn"], parts["fc2"]

    def forward(self, states: Tensor, norm: nn.Module | None = None) -> Tensor:
        """States [..., D] to states [..., D].

        Args:
            states: What is read.
            norm: Applied to it first, and again in the backward pass.
        """
        wide = self.fc1(states) if norm is None else recomputed(lambda inputs: self.fc1(norm(inputs)), states)
        return recomputed(self._contracted, wide)

    def _contracted(self, wide: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation_fn(wide))
        return out


class _LayerNames(NamedTuple):
    """What a family of models calls the parts of a layer."""

    norm: str
    attention: str
    output: str
    mlp_norm: str


_LAYER_NAMES = (
    _LayerNames("layernorm_before", "attention", "o_proj", "layernorm_after"),  # ViT, DeiT
    _LayerNames("layer_norm1", "self_attn", "out_proj", "layer_norm2"),  # CLIP, SigLIP
)

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class RecomputingLayer(GradientCheckpointingLayer):
    """LayerNorm, attention, residual, LayerNorm, feed-forward, residual, as in ViT; names of weights stay.

    As a rule, what each LayerNorm makes is kept for the products that read it. Here it is made again in the backward
    pass; so is the activation of the feed-forward block, see `RecomputingMlp`. Attention is torch's fused one, whatever
    implementation the model was told to use.

    Args:
        layer: The layer to stand in for, which has no dropout and whose feed-forward block is a `RecomputingMlp`.
        names: What its parts are called.
    """

    def __init__(self, layer: nn.Module, names: _LayerNames) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self._names = names
        attention = layer.get_submodule(names.attention)
        self._heads = int(getattr(attention, "num_attention_heads", 0) or attention.num_heads)  # type: ignore[arg-type]

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object) -> Tensor:
        """States [B, N, W] to states [B, N, W]; all states are seen by all, so a mask is None."""
        heads = recomputed(self._queries_keys_values, hidden_states)  # [B, N, 3 W]
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
    def _mlp(self) -> RecomputingMlp:
        mlp = self.get_submodule("mlp")
        assert isinstance(mlp, RecomputingMlp)
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


def _fits(layer: nn.Module, names: _LayerNames) -> bool:
    children = dict(layer.named_children())
    if children.keys() - {"dropout"} != {names.norm, names.attention, names.mlp_norm, "mlp"}:
        return False
    parts = {name for name, _ in children[names.attention].named_children()}
    return (
        parts == {*_PROJECTIONS, names.output}
        and isinstance(children["mlp"], RecomputingMlp)
        and not _has_dropout(layer)
    )


def _has_dropout(layer: nn.Module) -> bool:
    """Dropout of states is a module; that of attention is a number, under one of two names."""
    modules = list(layer.modules())
    rates = [getattr(module, name, 0.0) for module in modules for name in ("attention_dropout", "dropout")]
    rates += [module.p for module in modules if isinstance(module, nn.Dropout)]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
