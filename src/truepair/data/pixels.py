"""Parts of images as uint8 tensors, decoded by the fastest decoder there is, and no larger than they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from truepair.data.images import DEFAULT_MAX_PIXELS, OpenedImage, opened_image

DECODER = "the decoder of pictures"
"""What runs call it in what they say, and in their checkpoints."""

_REDUCTIONS = (8, 4, 2)
"""A JPEG can be decoded at one part in so many of its size, for less than the whole costs."""


@dataclass(frozen=True)
class Part:
    """A part of an image, in pixels of the whole upright one.

    Attributes:
        top: its first row.
        left: its first column.
        height: rows.
        width: columns.
        least: height and width that it must keep if the image is decoded at reduced size.
    """

    top: int
    left: int
    height: int
    width: int
    least: tuple[int, int]

    def of(self, pixels: Tensor) -> Tensor:
        """The part of a whole image [H, W, 4], as a view."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def load_part(
    stored: Mapping[str, Any], choose: Callable[[int, int], Part], max_pixels: int = DEFAULT_MAX_PIXELS
) -> Tensor:
    """Decode a part of an image of a ``PairTable`` to 8-bit RGB; all else is as of ``load_image``.

    Upright JPEGs of 8-bit RGB that are needed at full size are decoded by simplejpeg. One of which the part has pixels
    to spare is decoded by Pillow at 1/2, 1/4 or 1/8 of its size, and so is all else, and what is damaged.

    Args:
        stored: the ``image`` cell of a row.
        choose: what to keep of an image of some height and width.
        max_pixels: largest width x height.

    Returns:
        uint8 [height, width, 4] of `as_pixels`; of a reduced image so much less, to the next whole pixel outwards.

    Raises:
        BadImageError: the image cannot be read.
    """
    with opened_image(stored, max_pixels) as opened:
        if not opened.is_jpeg:
            pixels = as_pixels(opened.decoded())
            return choose(*pixels.shape[:2]).of(pixels)
        whole = opened.size
        part = choose(*whole)
        _reduce(opened, part)
        fast = _decoded_fast(opened) if opened.size == whole else None
        pixels = as_pixels(opened.decoded()) if fast is None else fast
        return _reduced(part, whole, pixels.shape).of(pixels)


def as_pixels(image: Image.Image) -> Tensor:
    """An 8-bit RGB image as uint8 [H, W, 4] in the same memory; the fourth channel, as Pillow keeps it, has no meaning.

    A pixel of four bytes is moved at once, resized in half the time, and need not be packed and unpacked by Pillow.
    """
    try:
        values = from_dlpack(pa.array(image).values)
    except ValueError:  # Pillow keeps large images in several blocks
        values = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    return values.view(image.height, image.width, 4)


def as_image(pixels: Tensor) -> Image.Image:
    """The 8-bit RGB image of uint8 [H, W, 4]."""
    height, width = pixels.shape[:2]
    return Image.frombytes("RGB", (width, height), pixels.contiguous().numpy(), "raw", "RGBX")


def decoder_name() -> str:
    """What decodes plain JPEGs here, with its version: pixels may depend on it."""
    return _decoder().name


def decoder_line() -> str:
    """What a run says of its decoder; also why it is not the faster one."""
    decoder = _decoder()
    return f"{DECODER} is {decoder.name}{decoder.why}"


@dataclass(frozen=True)
class _Decoder:
    """What decodes plain JPEGs.

    Attributes:
        name: with its version.
        decode: from the bytes of a JPEG and "RGBX" to uint8 [H, W, 4]; raises an error for one that is Pillow's to
            decode, or to find bad; None for Pillow itself.
        why: why it is not simplejpeg.
    """

    name: str
    decode: Callable[[bytes, str], NDArray[np.uint8]] | None = None
    why: str = ""


@cache
def _decoder() -> _Decoder:
    """Simplejpeg, or Pillow where that cannot be used."""
    try:
        name = f"simplejpeg {version('simplejpeg')}"
        from simplejpeg import decode_jpeg  # loads a library that nothing else needs
    except PackageNotFoundError:
        why = "simplejpeg, which is faster, is not installed"
    except (ImportError, OSError) as error:
        why = f"{name} cannot be loaded ({' '.join(str(error).split())[:80]})"
    else:
        return _Decoder(name, decode_jpeg)
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return _Decoder(f"Pillow {PIL.__version__} with libjpeg {libjpeg}", why=f": {why}")


def _reduce(opened: OpenedImage, part: Part) -> None:
    """Have a JPEG decoded at the least size at which the part keeps what it must."""
    for reduction in _REDUCTIONS:
        if part.height // reduction >= part.least[0] and part.width // reduction >= part.least[1]:
            width, height = opened.header.size  # as stored: not turned
            return opened.reduce(height // reduction, width // reduction)
    return None


def _decoded_fast(opened: OpenedImage) -> Tensor | None:
    """An image, uint8 [H, W, 4], as simplejpeg decodes it; None of one that is Pillow's to decode, or to find bad."""
    decode = _decoder().decode
    if decode is None or opened.header.mode != "RGB" or opened.orientation != 1:
        return None
    try:
        return torch.from_numpy(decode(opened.encoded, "RGBX"))
    except (RuntimeError, ValueError):
        return None


def _reduced(part: Part, whole: tuple[int, int], decoded: Sequence[int]) -> Part:
    """A part of the whole in an image as it was decoded (heights and widths), to the next whole pixel outwards."""
    (top, bottom), (left, right) = (
        (start * has // had, -(-(start + length) * has // had))
        for start, length, has, had in zip(
            (part.top, part.left), (part.height, part.width), decoded[:2], whole, strict=True
        )
    )
    return Part(top, left, bottom - top, right - left, part.least)
