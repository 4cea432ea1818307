"""An image encoder that learns from scratch in minutes: a convolutional stem and a few ViT blocks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truepair.errors import ConfigError
from truepair.models.encoders.base import ImageEncoder, parse_config
from truepair.settings import PartShare, Positive, check_settings

_STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class ConvStemConfig:
    """What to build.

    Attributes:
        image_size: height and width of the images in pixels, a multiple of 8.
        hidden_size: W, the width of the states.
        num_hidden_layers: ViT blocks after the stem.
        num_attention_heads: heads of each block.
        intermediate_size: hidden width of the feed-forward part of each block; None means twice ``hidden_size``.
        dropout: dropout within the blocks.
    """

    image_size: Positive = 64
    hidden_size: Positive = 128
    num_hidden_layers: Positive = 2
    num_attention_heads: Positive = 4
    intermediate_size: Positive | None = None
    dropout: PartShare = 0.0

    def __post_init__(self) -> None:
        check_settings(self, "conv_stem")
        if self.image_size < _STRIDE or self.image_size % _STRIDE:
            raise ConfigError(f"image_size of conv_stem is {self.image_size}; give a multiple of {_STRIDE}")
        if self.hidden_size % 32 or self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size of conv_stem is {self.hidden_size}; give a multiple of 32 and of its "
                f"{self.num_attention_heads} attention heads"
            )


class ConvStem(ImageEncoder):
    """Three 3x3 convolutions of stride 2, position embeddings, pre-norm ViT blocks; N = (H / 8) * (W / 8) states.

    Convolutions see edges and colours from the first steps, where a ViT must first learn that neighbouring pixels
    belong together ("Early convolutions help transformers see better", Xiao et al., NeurIPS 2021).
    """

    def __init__(self, config: ConvStemConfig) -> None:
        super().__init__()
        self.config = {"model_type": "conv_stem", **asdict(config)}
        self._config = config
        self.width = config.hidden_size
        self.image_size = config.image_size
        widths = (3, config.hidden_size // 4, config.hidden_size // 2, config.hidden_size)
        self.stem = nn.Sequential(*(_stem_layer(inputs, outputs) for inputs, outputs in pairwise(widths)))
        side = config.image_size // _STRIDE
        self.position_embedding = nn.Parameter(torch.randn(1, config.hidden_size, side, side) * 0.02)
        # Built one by one: nn.TransformerEncoder would start every block from the same weights.
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.num_hidden_layers)))
        self.norm = nn.LayerNorm(config.hidden_size)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ConvStem":
        """Build from the fields of ``ConvStemConfig``."""
        return cls(parse_config(ConvStemConfig, config))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to states [B, N, W]; for another size, position embeddings are interpolated."""
        maps = self.stem(pixel_values)  # [B, W, h, w]
        positions = self._positions(maps.shape[2], maps.shape[3])
        states: Tensor = self.norm(self.blocks((maps + positions).flatten(2).transpose(1, 2)))
        return states

    def resized(self, image_size: int) -> "ConvStem":
        """The same encoder for images of another size, its position embeddings interpolated once and for all."""
        if image_size == self.image_size:
            return self
        encoder = ConvStem(replace(self._config, image_size=image_size))
        side = image_size // _STRIDE
        encoder.load_state_dict({**self.state_dict(), "position_embedding": self._positions(side, side).detach()})
        return encoder

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings [1, W, h, w] of a grid."""
        positions: Tensor = self.position_embedding
        if positions.shape[2:] == (height, width):
            return positions
        return F.interpolate(positions, (height, width), mode="bicubic", align_corners=False)


def _stem_layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.GELU()
    )


def _block(config: ConvStemConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        dim_feedforward=config.intermediate_size or 2 * config.hidden_size,
        dropout=config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
