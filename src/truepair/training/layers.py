"""The repeated layers of a model."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

_KINDS = (GradientCheckpointingLayer, nn.TransformerEncoderLayer)


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Its transformer layers, which hold most of its weights and are called one after the other."""
    return [module for module in model.modules() if isinstance(module, _KINDS)]
