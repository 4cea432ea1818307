"""Parts of images as uint8 tensors, decoded by the fastest decoder there is, and no larger than they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
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

    Upright JPEGs of 8-bit RGB that are needed at full size are decoded by simplejpeg, or torchcodec, where it is
    installed. One of which the part has pixels to spare is decoded by Pillow at 1/2, 1/4 or 1/8 of its size, and so is
    all else.

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
        fast = _decoded_fast(opened, part) if opened.size == whole else None
        if fast is not None:
            return fast
        pixels = as_pixels(opened.decoded())
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
    """What a run says of its decoder; also why one that is installed and faster is not used."""
    decoder = _decoder()
    return f"{DECODER} is {decoder.name}{decoder.why}"


@dataclass(frozen=True)
class _Decoder:
    """What decodes plain JPEGs.

    Attributes:
        name: with its version.
        part: from the bytes of a JPEG to a part of it, uint8 [h, w, 4]; raises an error for one that is Pillow's to
            decode, or to find bad; None for Pillow itself.
        why: why those before it are not used although they are installed.
    """

    name: str
    part: Callable[[bytes, Part], Tensor] | None = None
    why: str = ""


@cache
def _decoder() -> _Decoder:
    """The fastest decoder of those that are installed and work."""
    why = ""
    for package, (module, read) in _FAST.items():
        try:
            name = f"{package} {version(package)}"
            decode = getattr(import_module(module), "decode_jpeg", None)  # loads libraries that nothing else needs
        except PackageNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            why += f": {name} cannot be loaded ({' '.join(str(error).split())[:80]})"
            continue
        if decode is not None:
            return _Decoder(name, partial(read, decode), why)
        why += f": {name} decodes no JPEGs"
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return _Decoder(f"Pillow {PIL.__version__} with libjpeg {libjpeg}", why=why)


def _by_simplejpeg(decode: Callable[..., NDArray[np.uint8]], encoded: bytes, part: Part) -> Tensor:
    return part.of(torch.from_numpy(decode(encoded, "RGBX")))  # of what is damaged it raises an error


def _by_torchcodec(decode: Callable[[Tensor], Tensor], encoded: bytes, part: Part) -> Tensor:
    pixels = decode(torch.frombuffer(bytearray(encoded), dtype=torch.uint8)).permute(1, 2, 0)  # [H, W, 3]
    rows = pixels.contiguous()[part.top :]
    first = rows.flatten()[part.left * 3 :]
    return as_pixels(
        Image.frombuffer("RGB", (part.width, part.height), first.numpy(), "raw", "RGB", rows.shape[1] * 3, 1)
    )


_FAST: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "simplejpeg": ("simplejpeg", _by_simplejpeg),
    "torchcodec": ("torchcodec.decoders", _by_torchcodec),
}
"""Packages that decode JPEGs faster than Pillow, the fastest first: the module of their decoder, and how it is read."""


def _reduce(opened: OpenedImage, part: Part) -> None:
    """Have a JPEG decoded at the least size at which the part keeps what it must."""
    for reduction in _REDUCTIONS:
        if part.height // reduction >= part.least[0] and part.width // reduction >= part.least[1]:
            width, height = opened.header.size  # as stored: not turned
            return opened.reduce(height // reduction, width // reduction)
    return None


def _decoded_fast(opened: OpenedImage, part: Part) -> Tensor | None:
    """Part of an image, uint8 [h, w, 4], as the fast decoder sees it; None of one that is Pillow's."""
    read = _decoder().part
    if read is None or opened.header.mode != "RGB" or opened.orientation != 1:
        return None
    try:
        return read(opened.encoded, part)
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
