"""Parts of images as uint8 tensors, decoded by the fastest decoder there is, and no larger than they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import PIL
import torch
from PIL import Image, features
from torch import Tensor

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

    Upright JPEGs of 8-bit RGB that are needed at full size are decoded by torchcodec where it is installed. One of
    which the part has pixels to spare is decoded by Pillow at 1/2, 1/4 or 1/8 of its size, and so is all else.

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
            image = opened.decoded()
            part = choose(image.height, image.width)
            return as_pixels(image.crop(_box(part, image.size, image.size)))
        height, width = opened.size
        part = choose(height, width)
        _reduce(opened, part)
        fast = _decoded_fast(opened, part) if opened.size == (height, width) else None
        if fast is not None:
            return as_pixels(fast)
        image = opened.decoded()
        return as_pixels(image.crop(_box(part, (width, height), image.size)))


def as_pixels(image: Image.Image) -> Tensor:
    """An 8-bit RGB image as uint8 [H, W, 4]; the fourth channel, as Pillow keeps it, has no meaning.

    A pixel of four bytes is moved at once, resized in half the time, and need not be packed and unpacked by Pillow.
    """
    # A bytearray, for it may be written to: that bytes may not is a warning, and to silence it takes longer.
    data = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    return data.view(image.height, image.width, 4)


def as_image(pixels: Tensor) -> Image.Image:
    """The 8-bit RGB image of uint8 [H, W, 4]."""
    height, width = pixels.shape[:2]
    return Image.frombytes("RGB", (width, height), pixels.contiguous().numpy(), "raw", "RGBX")


def decoder_name() -> str:
    """What decodes plain JPEGs here, with its version: pixels may depend on it."""
    if callable(_torchcodec()):
        return f"torchcodec {version('torchcodec')}"
    return f"Pillow {PIL.__version__} with libjpeg {features.version('libjpeg_turbo') or features.version('jpg')}"


def decoder_line() -> str:
    """What a run says of its decoder; also why a torchcodec that is installed is not used."""
    decode = _torchcodec()
    return f"{DECODER} is {decoder_name()}{decode if isinstance(decode, str) else ''}"


@cache
def _torchcodec() -> Callable[[Tensor], Tensor] | str:
    """The JPEG decoder of torchcodec, or in words why there is none; empty where torchcodec is not installed."""
    try:
        name = f"torchcodec {version('torchcodec')}"
    except PackageNotFoundError:
        return ""
    try:
        from torchcodec import decoders  # loads its libraries, which nothing else needs
    except (ImportError, OSError, RuntimeError) as error:
        return f": {name} cannot be loaded ({' '.join(str(error).split())[:80]})"
    found: Callable[[Tensor], Tensor] | str = getattr(decoders, "decode_jpeg", f": {name} decodes no JPEGs")
    return found


def _reduce(opened: OpenedImage, part: Part) -> None:
    """Have a JPEG decoded at the least size at which the part keeps what it must."""
    for reduction in _REDUCTIONS:
        if part.height // reduction >= part.least[0] and part.width // reduction >= part.least[1]:
            width, height = opened.header.size  # as stored: not turned
            return opened.reduce(height // reduction, width // reduction)
    return None


def _decoded_fast(opened: OpenedImage, part: Part) -> Image.Image | None:
    """Part of an image as torchcodec decodes it; None of one that is Pillow's to decode, or to find bad."""
    decode = _torchcodec()
    header = opened.header
    if isinstance(decode, str) or header.mode != "RGB" or opened.orientation != 1:
        return None
    try:
        pixels = decode(torch.frombuffer(bytearray(opened.encoded), dtype=torch.uint8)).permute(1, 2, 0)  # [H, W, 3]
    except RuntimeError:
        return None
    rows = pixels.contiguous()[part.top :]
    first = rows.flatten()[part.left * 3 :]
    return Image.frombuffer("RGB", (part.width, part.height), first.numpy(), "raw", "RGB", rows.shape[1] * 3, 1)


def _box(part: Part, whole: tuple[int, int], decoded: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of the whole in an image as it was decoded (widths and heights)."""
    (left, right), (top, bottom) = (
        (start * has // had, -(-(start + length) * has // had))
        for start, length, has, had in zip(
            (part.left, part.top), (part.width, part.height), decoded, whole, strict=True
        )
    )
    return left, top, right, bottom
