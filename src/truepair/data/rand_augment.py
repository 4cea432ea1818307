"""ALBEF's RandAugment on uint8 tensors: each operation as Pillow's, to within 1 of 255."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from truepair.errors import ConfigError

_GREY = 128  # what comes in from beyond the edges

_MAX_LEVEL = 10

_MAX_TRANSLATION = 10  # pixels

_MAX_SHEAR = 0.3  # tangent of the angle

_MAX_ROTATION = 30.0  # degrees

_COLOURS = 256

_UP = 1e-3  # keeps whole numbers that come out a little lower from being cut to the next one

Affine = tuple[float, float, float, float, float, float]
"""a to f: what appears at (x, y) stood at (ax + by + c, dx + ey + f); centres of pixels stand at halves."""


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

    def __call__(self, pixels: Tensor) -> Tensor:
        """Augment an image, uint8 [3, H, W]; its size stays, and so does the tensor that is given."""
        for _ in range(self.ops):
            choice = int(torch.randint(len(_OPERATIONS), ()))
            applied, positive = torch.rand(2).lt(0.5).tolist()
            if applied:
                pixels = _OPERATIONS[choice](pixels, self.strength if positive else -self.strength)
        return pixels


def _identity(pixels: Tensor, strength: float) -> Tensor:
    return pixels


def _auto_contrast(pixels: Tensor, strength: float) -> Tensor:
    """Stretch each channel from 0 to 255."""
    lows, highs = torch.aminmax(pixels.flatten(1), dim=1)  # [3] each
    tables = []
    for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
        values = torch.arange(_COLOURS, dtype=torch.float64)
        if low < high:
            scale = 255 / (high - low)
            values = (values * scale - low * scale).clamp(0, 255)
        tables.append(values)
    return _looked_up(pixels, torch.stack(tables))


def _equalise(pixels: Tensor, strength: float) -> Tensor:
    """Spread the values of each channel so that about as many pixels have each."""
    tables = []
    for channel in pixels.flatten(1):
        counts = torch.bincount(channel, minlength=_COLOURS)  # [256]
        values = torch.arange(_COLOURS)
        step = (channel.numel() - int(counts[counts > 0][-1])) // 255
        if step:
            values = (step // 2 + counts.cumsum(0) - counts) // step
        tables.append(values.clamp(max=255))
    return _looked_up(pixels, torch.stack(tables))


def _looked_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """What a table for each channel [3, 256] has in place of each value, cut to whole numbers."""
    channels = zip(pixels, tables.to(torch.uint8), strict=True)
    return torch.stack([table.index_select(0, values.flatten().int()).view_as(values) for values, table in channels])


def _brightness(pixels: Tensor, strength: float) -> Tensor:
    return pixels.float().mul_(_enhancement(strength)).clamp_(max=255).to(torch.uint8)


def _sharpness(pixels: Tensor, strength: float) -> Tensor:
    """Move each pixel from what smoothing makes of it, or towards that; those at the edges stay."""
    if min(pixels.shape[1:]) < 3:
        return pixels
    wide = pixels.to(torch.int16)  # [3, H, W]
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]  # [3, H, W - 2]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]  # [3, H - 2, W - 2]
    inner = wide[:, 1:-1, 1:-1]
    smooth = (around + 4 * inner).float().mul_(1 / 13).add_(0.5).floor_()  # a pixel counts five times
    enhanced = torch.lerp(smooth, inner.float(), _enhancement(strength))
    result = pixels.clone()
    result[:, 1:-1, 1:-1] = enhanced.clamp_(0, 255).to(torch.uint8)
    return result


def _shear_x(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, (1.0, strength * _MAX_SHEAR, 0.0, 0.0, 1.0, 0.0))


def _shear_y(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, (1.0, 0.0, 0.0, strength * _MAX_SHEAR, 1.0, 0.0))


def _translate_x(pixels: Tensor, strength: float) -> Tensor:
    return _moved(pixels, round(strength * _MAX_TRANSLATION))


def _translate_y(pixels: Tensor, strength: float) -> Tensor:
    return _moved(pixels.transpose(1, 2), round(strength * _MAX_TRANSLATION)).transpose(1, 2)


def _rotate(pixels: Tensor, strength: float) -> Tensor:
    """Turn about the centre, against the clock."""
    height, width = pixels.shape[1:]
    angle = math.radians(strength * _MAX_ROTATION)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return _affine(pixels, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def _enhancement(strength: float) -> float:
    """Factor of an enhancement, which has no sign: 0.1 at level 0, 1.9 at level 10."""
    return 1.8 * abs(strength) + 0.1


def _moved(pixels: Tensor, left: int) -> Tensor:
    """Pixels so many columns further left; all levels are whole pixels."""
    width = pixels.shape[2]
    kept = max(width - abs(left), 0)
    result = torch.full_like(pixels, _GREY)
    target, source = (0, left) if left >= 0 else (width - kept, 0)
    result[:, :, target : target + kept] = pixels[:, :, source : source + kept]
    return result


def _affine(pixels: Tensor, matrix: Affine) -> Tensor:
    """Move all pixels, bilinearly; what would come from outside is grey, and edges are not mixed with it."""
    height, width = pixels.shape[1:]
    a, b, c, d, e, f = matrix
    columns, rows = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    x = columns * (2 * a / width) + (rows * (2 * b / width) + (2 * c / width - 1))  # [H, W], from -1 to 1
    y = columns * (2 * d / height) + (rows * (2 * e / height) + (2 * f / height - 1))
    outside = (x.abs() >= 1) | (y.abs() >= 1)  # [H, W]
    grid = torch.stack([x, y], dim=-1)[None]  # [1, H, W, 2]
    moved = F.grid_sample(pixels[None].float(), grid, padding_mode="border", align_corners=False)[0]
    return moved.add_(_UP).to(torch.uint8).masked_fill_(outside, _GREY)


_OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
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
