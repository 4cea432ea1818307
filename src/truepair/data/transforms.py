"""Images to tensors: sizes, normalisation and augmentation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from truepair.data.images import DEFAULT_MAX_PIXELS, describe, load_image, memory_for
from truepair.errors import ConfigError
from truepair.settings import Natural, Share, Within, check_settings

PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for pixels in 0..1."""

NORMALISATIONS: dict[str, PixelStatistics] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

_INTERPOLATIONS = {name: InterpolationMode(name) for name in ("bicubic", "bilinear", "lanczos", "nearest")}

ASPECTS = (3 / 4, 4 / 3)
"""Least and largest width over height of a random crop."""

_GREY = (128, 128, 128)

Operations = Annotated[int, Within(0, 20)]

Level = Annotated[int, Within(0, 10)]

_MAX_LEVEL = 10

_MAX_TRANSLATION = 10  # pixels

_MAX_SHEAR = 0.3  # tangent of the angle

_MAX_ROTATION = 30.0  # degrees


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How images become tensors. The defaults are ALBEF's and MAFA's.

    Attributes:
        size: side of the square image the model reads, in pixels; 0 for that of the model that training starts from.
        normalisation: "clip", "imagenet", "none" (pixels in 0..1), or "encoder": as the image encoder was trained.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; models of the hub resize as their processor does.
        crop_scale: training: least and largest share of the area that RandomResizedCrop keeps; (1, 1) crops nothing.
        flip: training: probability of a horizontal flip; 0 where left and right carry meaning: arrows, flags, text.
        rand_augment_ops: training: operations of RandAugment per image; 0 for none.
        rand_augment_level: training: their strength, 0 to 10.
        evaluation_resize: "squash" scales both sides to ``size``; "crop" scales the shorter side and takes the centre.
    """

    size: Natural = 256
    normalisation: str = "clip"
    interpolation: str = "bicubic"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: Share = 0.5
    rand_augment_ops: Operations = 2
    rand_augment_level: Level = 7
    evaluation_resize: str = "squash"

    def __post_init__(self) -> None:
        _check_choice("normalisation", self.normalisation, [*NORMALISATIONS, "encoder"])
        _check_choice("interpolation", self.interpolation, _INTERPOLATIONS)
        _check_choice("evaluation_resize", self.evaluation_resize, ("squash", "crop"))
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise ConfigError(f"crop_scale is {self.crop_scale}; give two rising shares between 0 and 1")
        check_settings(self, "transform")


def build_transform(
    config: TransformConfig,
    *,
    train: bool,
    encoder_statistics: PixelStatistics | None = None,
    size: tuple[int, int] | None = None,
) -> "ImageTransform":
    """Build the training transform (crop, flip, RandAugment) or the evaluation transform (resize); both end normalised.

    Args:
        config: what to do.
        train: augment. The evaluation transform draws nothing.
        encoder_statistics: mean and standard deviation of each channel that the image encoder expects; for "encoder".
        size: height and width of the tensors of training, in pixels; None for a square of ``config.size``.

    Returns:
        A transform to float32 [3, H, W].

    Raises:
        ConfigError: "encoder" normalisation without the encoder's statistics.
    """
    mean, std = normalisation(config, encoder_statistics)
    sides = (config.size, config.size) if size is None else size
    if not train:
        return ImageTransform(*_evaluation_steps(config), _Normalise(mean, std), min_side=config.size)
    steps = [_crop(config, sides), *augmentation(config)]
    return ImageTransform(*steps, _Normalise(mean, std), min_side=min_side(max(sides), config))


def min_side(side: int, config: TransformConfig) -> int:
    """Pixels that the shorter side of an image must have, so that what its smallest crop keeps still has ``side``."""
    return math.ceil(side / math.sqrt(config.crop_scale[0] * ASPECTS[0]))


def normalisation(config: TransformConfig, encoder_statistics: PixelStatistics | None = None) -> PixelStatistics:
    """What a transform subtracts from each channel, and what it divides by after that.

    Args:
        config: the transform.
        encoder_statistics: what the image encoder expects; for "encoder".

    Raises:
        ConfigError: "encoder" normalisation without the encoder's statistics.
    """
    statistics = NORMALISATIONS | ({} if encoder_statistics is None else {"encoder": encoder_statistics})
    if config.normalisation not in statistics:
        raise ConfigError("normalisation is 'encoder', but no image encoder is given here; give clip, imagenet or none")
    return statistics[config.normalisation]


class ImageTransform:
    """From an 8-bit RGB image to float32 [3, H, W], in steps, with the least size the image must be decoded at.

    Any random draws must come from torch's global CPU generator: ``PairDataset`` keys that by sample.

    Args:
        steps: callables, applied in order; the last returns the tensor.
        min_side: JPEGs may be decoded smaller as long as both sides keep this many pixels; None decodes at full size.
    """

    def __init__(self, *steps: Callable[[Any], Any], min_side: int | None = None) -> None:
        self.steps = steps
        self.min_side = min_side

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform an image into float32 [3, H, W]."""
        value: Any = image
        for step in self.steps:
            value = step(value)
        return cast(Tensor, value)

    def read(self, stored: Mapping[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
        """Read an image of a ``PairTable``, as :func:`load_image` does, and transform it into float32 [3, H, W].

        Raises:
            BadImageError: it cannot be read, or memory has no room for it.
        """
        with memory_for(describe(stored)):
            return self(load_image(stored, min_side=self.min_side, max_pixels=max_pixels))


class AlbefRandAugment:
    """Apply ``ops`` of ten operations to an image, each with probability one half (Cubuk et al. 2020; Li et al. 2021).

    The ten: identity, auto-contrast, equalise, brightness, sharpness, shear and translation along x and y, rotation.
    Hue, saturation, solarise and posterise are left out, for "a red bus" must stay red. Draws come from torch's global
    CPU generator.

    Args:
        ops: operations drawn with replacement per image; 0 leaves images as they are.
        level: strength from 0 to 10.

    Raises:
        ConfigError: if ``ops`` is negative or ``level`` is outside 0 to 10.
    """

    def __init__(self, ops: int = 2, level: int = 7) -> None:
        if ops < 0 or not 0 <= level <= _MAX_LEVEL:
            raise ConfigError(
                f"rand_augment has {ops} operations at level {level}; give 0 or more, and a level of 0 to 10"
            )
        self.ops = ops
        self.strength = level / _MAX_LEVEL

    def __call__(self, image: Image.Image) -> Image.Image:
        """Augment an 8-bit RGB image; its size stays."""
        for _ in range(self.ops):
            choice = int(torch.randint(len(_OPERATIONS), ()))
            applied, positive = torch.rand(2).lt(0.5).tolist()
            if applied:
                image = _OPERATIONS[choice](image, self.strength if positive else -self.strength)
        return image


class _Normalise:
    """8-bit RGB image to normalised float32 [3, H, W]; in one pass, where v2's three steps take four times as long."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = (1 / (255 * torch.tensor(std)))[:, None, None]  # [3, 1, 1]
        self.shift = (-torch.tensor(mean) / torch.tensor(std))[:, None, None]  # [3, 1, 1]

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(self.scale).add_(self.shift)


def _crop(config: TransformConfig, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """The first step of training: a random part of the image, or all of it, at a size (height, width)."""
    resample = _INTERPOLATIONS[config.interpolation]
    step: Callable[[Image.Image], Image.Image]
    if config.crop_scale == (1.0, 1.0):
        step = v2.Resize(size, interpolation=resample)
    else:
        step = v2.RandomResizedCrop(size, scale=config.crop_scale, ratio=ASPECTS, interpolation=resample)
    return step


def augmentation(config: TransformConfig) -> list[Callable[[Image.Image], Image.Image]]:
    """What training does to an image after cropping: flip and RandAugment; its size stays."""
    steps: list[Callable[[Image.Image], Image.Image]] = []
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    if config.rand_augment_ops:
        steps.append(AlbefRandAugment(config.rand_augment_ops, config.rand_augment_level))
    return steps


def _evaluation_steps(config: TransformConfig) -> list[Callable[[Image.Image], Image.Image]]:
    resample = _INTERPOLATIONS[config.interpolation]
    if config.evaluation_resize == "squash":
        return [v2.Resize((config.size, config.size), interpolation=resample)]
    return [v2.Resize(config.size, interpolation=resample), v2.CenterCrop(config.size)]


def _check_choice(name: str, value: str, choices: object) -> None:
    names = list(choices)  # type: ignore[call-overload]
    if value not in names:
        raise ConfigError(f"{name} is '{value}'; give one of {', '.join(names)}")


def _identity(image: Image.Image, strength: float) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalise(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_enhancement(strength))


def _sharpness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_enhancement(strength))


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, strength * _MAX_SHEAR, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, strength * _MAX_SHEAR, 1.0, 0.0))


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, strength * _MAX_TRANSLATION, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, strength * _MAX_TRANSLATION))


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(strength * _MAX_ROTATION, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _enhancement(strength: float) -> float:
    """Factor of an enhancement, which has no sign: 0.1 at level 0, 1.9 at level 10."""
    return 1.8 * abs(strength) + 0.1


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Map output (x, y) to input (ax + by + c, dx + ey + f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=_GREY
    )


_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    _identity,
    _auto_contrast,
    _equalise,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
)
