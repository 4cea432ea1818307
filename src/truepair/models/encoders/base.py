"""What every image encoder is, and how its config is read."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from truepair.errors import ConfigError, nearest
from truepair.settings import check_types

C = TypeVar("C")

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """Images in, one state per patch (or grid cell) out.

    Attributes:
        config: ``model_type`` and the fields of this encoder, of plain JSON types; ``build_image_encoder(config)``
            makes another one of the same architecture.
        width: W, the width of a state.
        image_size: height and width in pixels of the images this encoder is meant to be fed.
        pixel_mean: mean to subtract from each RGB channel of an image in [0, 1].
        pixel_std: what to divide each channel by after that.
        frozen: whether ``freeze`` was called.
    """

    config: dict[str, Any]
    width: int
    image_size: int
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    frozen: bool = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            pixel_values: [B, 3, H, W], normalised with ``pixel_mean`` and ``pixel_std``.

        Returns:
            States [B, N, W].
        """
        raise NotImplementedError

    def resized(self, image_size: int) -> "ImageEncoder":
        """The same encoder for images of another size; position embeddings, if any, are interpolated once.

        Args:
            image_size: height and width in pixels of the images to come.

        Raises:
            ConfigError: this encoder cannot take images of that size.
        """
        raise NotImplementedError

    def freeze(self) -> Self:
        """Take all weights out of training: no gradients, and evaluation mode even inside a model in training."""
        self.frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def require_known_fields(fields: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse fields that do not exist.

    Raises:
        ConfigError: for the first unknown field, naming the nearest that exists.
    """
    known = set(known)
    for name in fields:
        if name not in known:
            raise ConfigError(f"{what} has no field '{name}'{nearest(name, known)}")


def parse_config(config_class: type[C], config: Mapping[str, Any]) -> C:
    """The dataclass made of an image encoder's config.

    Args:
        config_class: a dataclass of simple fields.
        config: its fields by name, and ``model_type``.

    Raises:
        ConfigError: a field that does not exist, or a value that it cannot have.
    """
    fields = {name: value for name, value in config.items() if name != "model_type"}
    known = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    require_known_fields(fields, known, f"image encoder '{config['model_type']}'")
    check_types(fields, config_class, f"image encoder '{config['model_type']}'")
    return config_class(**fields)


def masked_mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of the token states.

    Args:
        states: [B, L, D].
        attention_mask: 1 for tokens and 0 for padding, [B, L].

    Returns:
        [B, D], zero for a row without tokens.
    """
    weights = attention_mask.to(states.dtype)[:, :, None]  # [B, L, 1]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
