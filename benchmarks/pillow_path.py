"""Training's way from an image to a tensor with Pillow alone: as a user would write it, and as it was ours before."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from truepair.data.transforms import ASPECTS, NORMALISATIONS, ImageTransform, TransformConfig, min_side

GREY = (128, 128, 128)


def pillow_transform(config: TransformConfig) -> Callable[[Image.Image], Tensor]:
    """Crop, flip, RandAugment and normalisation of an 8-bit RGB image; draws what ours does in the same order."""
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*NORMALISATIONS[config.normalisation])]
    return v2.Compose([*_augmentation(config), *last])


def former_transform(config: TransformConfig) -> ImageTransform:
    """Our own transform of training before it worked on tensors; it draws what today's does in the same order."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in NORMALISATIONS[config.normalisation])

    def normalised(image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.mul_(1 / (255 * std)).add_(-mean / std)

    return ImageTransform(*_augmentation(config), normalised, min_side=min_side(config.size, config))


def _augmentation(config: TransformConfig) -> list[Callable[[Image.Image], Image.Image]]:
    resample = InterpolationMode(config.interpolation)
    return [
        v2.RandomResizedCrop(config.size, scale=config.crop_scale, ratio=ASPECTS, interpolation=resample),
        v2.RandomHorizontalFlip(config.flip),
        PillowRandAugment(config.rand_augment_ops, config.rand_augment_level),
    ]


class PillowRandAugment:
    """ALBEF's RandAugment, see `AlbefRandAugment`."""

    def __init__(self, ops: int, level: int) -> None:
        self.ops = ops
        self.strength = level / 10

    def __call__(self, image: Image.Image) -> Image.Image:
        """Augment an 8-bit RGB image; its size stays."""
        for _ in range(self.ops):
            choice = int(torch.randint(len(OPERATIONS), ()))
            applied, positive = torch.rand(2).lt(0.5).tolist()
            if applied:
                image = OPERATIONS[choice](image, self.strength if positive else -self.strength)
        return image


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
    return _affine(image, (1.0, strength * 0.3, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, strength * 0.3, 1.0, 0.0))


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, strength * 10, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, strength * 10))


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(strength * 30, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhancement(strength: float) -> float:
    """Factor of an enhancement, which has no sign: 0.1 at level 0, 1.9 at level 10."""
    return 1.8 * abs(strength) + 0.1


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Map output (x, y) to input (ax + by + c, dx + ey + f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=GREY
    )


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
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
