"""Weights between two models: WiSE-FT (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from truepair.errors import ConfigError


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights and buffers on the CPU, by name."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def interpolate(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * trained, for every weight, the (log) temperature among them.

    Exactly the start at 0 and the trained model at 1; what both have alike stays exactly so.

    Args:
        start: weights and buffers before training, by name.
        trained: the same after it.
        alpha: share of the trained weights, from 0 to 1.

    Returns:
        By name; what is not floating-point, such as a count of batches, is the trained model's.

    Raises:
        ConfigError: they are not weights of the same model, or those of an adapter, whose product is what counts.
    """
    other = next((n for n in start.keys() | trained.keys() if n not in start or n not in trained), None)
    other = other or next((name for name, value in trained.items() if start[name].shape != value.shape), None)
    if other is not None:
        raise ConfigError(
            f"start and trained model differ in {other}, so there is nothing between them; give one model"
        )
    adapter = next((name for name in trained if "lora_" in name), None)
    if adapter is not None:
        raise ConfigError(f"{adapter} belongs to an adapter, which is not interpolated; drop model.interpolate")
    mixed = {}
    for name, value in trained.items():
        floating = value.is_floating_point()
        mixed[name] = torch.lerp(start[name].to(value.device), value, alpha) if floating else value.clone()
    return mixed
