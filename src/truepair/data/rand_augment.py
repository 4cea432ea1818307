"""ALBEF's RandAugment on uint8 tensors: each operation as Pillow's, to within 1 of 255."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from truepair.data.pixels import as_pixels
from truepair.errors import ConfigError

_GREY = 128  # what comes in from beyond the edges

_MAX_LEVEL = 10

_MAX_TRANSLATION = 10  # pixels

_MAX_SHEAR = 0.3  # tangent of the angle

_MAX_ROTATION = 30.0  # degrees

_COLOURS = 256

_CHANNELS = 4  # the last has no meaning

_WHOLE = 256  # the shares of the neighbours of a place add up to so many parts

_STRIP = 1 << 14  # pixels that are moved at once: what is computed of them stays in the cache

_REMEMBERED = 128  # strips; of each there is a quarter of a MB

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
        """Augment an image, uint8 [H, W, 4] of `as_pixels`; its size stays, and so does the tensor that is given."""
        for _ in range(self.ops):
            choice = int(torch.randint(len(_OPERATIONS), ()))
            whether, sign = torch.rand(2).tolist()
            if whether < 0.5:
                pixels = _OPERATIONS[choice](pixels, self.strength if sign < 0.5 else -self.strength)
        return pixels


def _identity(pixels: Tensor, strength: float) -> Tensor:
    return pixels


def _auto_contrast(pixels: Tensor, strength: float) -> Tensor:
    """Stretch each channel from 0 to 255."""
    rows = pixels.flatten(1)  # [H, W * 4]
    lows = rows.amin(0).view(-1, _CHANNELS).amin(0).numpy()[:, None]  # [4, 1]
    highs = rows.amax(0).view(-1, _CHANNELS).amax(0).numpy()[:, None]
    values = np.arange(_COLOURS, dtype=np.float64)
    scales = 255 / np.maximum(highs - lows, 1)
    return _looked_up(_shared(pixels), np.where(lows < highs, values * scales - lows * scales, values))


def _equalise(pixels: Tensor, strength: float) -> Tensor:
    """Spread the values of each channel so that about as many pixels have each."""
    image = _shared(pixels)
    counts = np.array(image.histogram()).reshape(_CHANNELS, _COLOURS)
    tables = np.empty(counts.shape)
    for table, count in zip(tables, counts, strict=True):
        step = (image.width * image.height - int(count[count > 0][-1])) // 255
        table[:] = (step // 2 + count.cumsum() - count) // step if step else np.arange(_COLOURS)
    return _looked_up(image, tables)


def _shared(pixels: Tensor) -> Image.Image:
    """An image of Pillow in the same memory, not to be changed; it counts and looks up bytes without widening them."""
    height, width = pixels.shape[:2]
    return Image.frombuffer("RGBX", (width, height), pixels.contiguous().numpy(), "raw", "RGBX", 0, 1)


def _looked_up(image: Image.Image, tables: NDArray[np.float64]) -> Tensor:
    """What a table for each channel [4, 256] has in place of each value, cut to whole numbers from 0 to 255."""
    return as_pixels(image.point(list(tables.clip(0, 255).astype(np.uint8).tobytes())))


def _brightness(pixels: Tensor, strength: float) -> Tensor:
    return _cut(pixels.float().mul_(_enhancement(strength)))


def _sharpness(pixels: Tensor, strength: float) -> Tensor:
    """Move each pixel from what smoothing makes of it, or towards that; those at the edges stay."""
    if min(pixels.shape[:2]) < 3:
        return pixels
    wide = pixels.to(torch.int16)  # [H, W, 4]
    rows = (wide[:, :-2] + wide[:, 1:-1]).add_(wide[:, 2:])  # [H, W - 2, 4]
    around = (rows[:-2] + rows[1:-1]).add_(rows[2:])  # [H - 2, W - 2, 4]
    inner = wide[1:-1, 1:-1]
    smooth = around.add_(inner, alpha=4).float().mul_(1 / 13).add_(0.5).floor_()  # a pixel counts five times
    result = pixels.clone()
    result[1:-1, 1:-1] = _cut(smooth.lerp_(inner.float(), _enhancement(strength)))
    return result


def _cut(values: Tensor) -> Tensor:
    """Floats cut to whole numbers from 0 to 255, uint8; by way of 16 bits it takes a third of the time."""
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)


def _shear_x(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, (1.0, strength * _MAX_SHEAR, 0.0, 0.0, 1.0, 0.0))


def _shear_y(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, (1.0, 0.0, 0.0, strength * _MAX_SHEAR, 1.0, 0.0))


def _translate_x(pixels: Tensor, strength: float) -> Tensor:
    return _moved(pixels, 1, round(strength * _MAX_TRANSLATION))


def _translate_y(pixels: Tensor, strength: float) -> Tensor:
    return _moved(pixels, 0, round(strength * _MAX_TRANSLATION))


def _rotate(pixels: Tensor, strength: float) -> Tensor:
    """Turn about the centre, against the clock."""
    height, width = pixels.shape[:2]
    angle = math.radians(strength * _MAX_ROTATION)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return _affine(pixels, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def _enhancement(strength: float) -> float:
    """Factor of an enhancement, which has no sign: 0.1 at level 0, 1.9 at level 10."""
    return 1.8 * abs(strength) + 0.1


def _moved(pixels: Tensor, axis: int, back: int) -> Tensor:
    """Pixels so many rows (axis 0) or columns (axis 1) further up or left; all levels are whole pixels."""
    length = pixels.shape[axis]
    kept = max(length - abs(back), 0)
    result = torch.full_like(pixels, _GREY)
    target, source = (0, back) if back >= 0 else (length - kept, 0)
    result.narrow(axis, target, kept).copy_(pixels.narrow(axis, min(source, length - kept), kept))
    return result


def _affine(pixels: Tensor, matrix: Affine) -> Tensor:
    """Move all pixels, bilinearly; what would come from outside is grey, and edges are not mixed with it."""
    height, width = pixels.shape[:2]
    wide = np.empty((height * width + width + 2, _CHANNELS), np.uint16)
    wide[: height * width] = pixels.reshape(-1, _CHANNELS).numpy()
    wide[height * width :] = _GREY  # stands behind the image
    four = wide.view(np.uint64).ravel()  # all values of a pixel, with room for 256 times as much of each
    result = np.empty((height, width, _CHANNELS), np.uint8)
    rows = max(_STRIP // width, 1)
    for top in range(0, height, rows):
        move = _move(height, width, matrix, top, min(top + rows, height))
        mixed = np.zeros(len(move.places), np.uint64)
        for offset, shares in move.neighbours:
            neighbour = four[offset:].take(move.places)
            neighbour *= shares
            mixed += neighbour
        values = mixed.view(np.uint16)
        values >>= 8
        result[top : top + rows] = values.reshape(-1, width, _CHANNELS)
    return torch.from_numpy(result)


@dataclass(frozen=True)
class _Move:
    """Where some rows of an image come from, R pixels of it.

    Attributes:
        places: of the upper left one of the up to four pixels that each is mixed of, int64 [R]; behind the last of the
            image for what comes from outside.
        neighbours: how much further on one of the four stands, and its share of ``_WHOLE``, uint16 [R].
    """

    places: NDArray[np.int64]
    neighbours: tuple[tuple[int, NDArray[np.uint16]], ...]


@lru_cache(maxsize=_REMEMBERED)
def _move(height: int, width: int, matrix: Affine, top: int, bottom: int) -> _Move:
    """How rows of an image move; remembered, for pictures of one size have six shears and rotations of one strength."""
    a, b, c, d, e, f = matrix
    columns, rows = np.arange(width) + 0.5, np.arange(top, bottom)[:, None] + 0.5
    x, y = a * columns + b * rows + c, d * columns + e * rows + f  # [bottom - top, W]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    (left, columns_after), (upper, rows_after) = _between(x - 0.5, width), _between(y - 0.5, height)
    offsets = [down + right for down, _ in _steps(rows_after, width) for right, _ in _steps(columns_after, 1)]
    exact = [high * wide for _, high in _steps(rows_after, width) for _, wide in _steps(columns_after, 1)]
    places = np.where(outside, height * width, upper * width + left).ravel()
    shares = [share.astype(np.uint16).ravel() for share in _rounded([_WHOLE * share for share in exact])]
    return _Move(places, tuple(zip(offsets, shares, strict=True)))


def _between(positions: NDArray[np.float64], length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The pixel at or before each position, and the share of the next one, which there is if any has a share."""
    inside = positions.clip(0, length - 1)
    first = np.floor(inside)
    if (inside > first).any():
        first = np.minimum(first, length - 2)
    return first.astype(np.int64), (inside - first).astype(np.float32)


def _steps(after: NDArray[np.float32], step: int) -> list[tuple[int, NDArray[np.float32]]]:
    """How far a pixel and the next one stand from the first, and their shares; without a next one if it has none."""
    return [(0, 1 - after), (step, after)] if after.any() else [(0, 1 - after)]


def _rounded(shares: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Shares as whole numbers that still add up to ``_WHOLE``: those that lose most by being cut are rounded up.

    What they mix is less than 1 of 255 off: shares that grow do so by 1 at most together, and the others lose as much.
    """
    whole = [np.floor(share) for share in shares]
    lost = [share - cut for share, cut in zip(shares, whole, strict=True)]
    missing = (_WHOLE - np.add.reduce(whole)).astype(np.uint8)
    for place, mine in enumerate(lost):
        ahead = np.zeros_like(missing)
        for number, other in enumerate(lost):
            if number != place:
                ahead += other >= mine if number < place else other > mine
        whole[place] += ahead < missing
    return whole


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
