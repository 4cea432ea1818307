"""The weights of a BLIP-2 that transformers' classes have no place for, in files of their own beside the model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Blip2Config, Blip2VisionModel
from transformers.utils import cached_file

from truepair.errors import CheckpointError
from truepair.models.checkpoints.load import load_part
from truepair.models.encoders.base import ImageEncoder
from truepair.models.encoders.images import build_image_encoder

TOWER_FILE = "image_encoder.safetensors"
"""An image tower that is no ViT of the kind that transformers' classes have."""


class Weights:
    """A file of weights beside a model, read like a model.

    Args:
        file: Its name.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def from_pretrained(self, name: str, *, trust_remote_code: bool, **revision: str) -> dict[str, Tensor] | None:
        """The weights; None where there is no such file, as on the hub."""
        file = cached_file(name, self.file, _raise_exceptions_for_missing_entries=False, **revision)
        return None if file is None else load_file(file)


def take_weights(module: nn.Module, weights: Mapping[str, Tensor], file: str) -> None:
    """Put the weights of a file into a module.

    Raises:
        CheckpointError: They are of another one.
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{file} is of another model; give a whole one") from error


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write weights to a file."""
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, file)


def weights_under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def vision_names(config: Blip2Config) -> frozenset[str]:
    """The names of the weights of a vision model, which stands empty where another tower is in its place."""
    with torch.device("meta"):
        return frozenset(f"vision_model.{name}" for name in Blip2VisionModel(config.vision_config).state_dict())


def load_tower(config: Blip2Config, name: str) -> ImageEncoder | None:
    """The image tower that stands in the place of the vision model, if a config tells of one.

    Args:
        config: Of the model.
        name: Its folder or hub name.

    Raises:
        CheckpointError: Its weights are missing, or of another one.
    """
    settings = getattr(config, "image_encoder", None)
    if settings is None:
        return None
    tower = build_image_encoder(settings)
    weights = load_part(Weights(TOWER_FILE), name, what=TOWER_FILE)
    if weights is None:
        raise CheckpointError(f"{name} has no {TOWER_FILE}, the weights of its image tower; give a whole model")
    take_weights(tower, weights, f"{name}: {TOWER_FILE}")
    return tower
