"""RandAugment as ALBEF's line of models uses it: ten operations that leave colours as a caption names them."""

from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

from truepair.errors import ConfigError

_GREY = (128, 128, 128)
_MAX_LEVEL = 10
_MAX_TRANSLATION = 10  # pixels
_MAX_SHEAR = 0.3  # tangent of the angle
_MAX_ROTATION = 30.0  # degrees


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
