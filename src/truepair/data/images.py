"""Images from bytes to 8-bit RGB, with a typed error for each way they can be bad."""

import io
import math
import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from truepair.errors import DataError

DEFAULT_MAX_PIXELS = 89_478_485
"""Largest width x height that is decoded: 256 MiB as 8-bit RGB, the limit at which Pillow itself starts to warn."""

# What Pillow may try. Its list of formats is longer; EPS, for one, starts an outside program.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

Image.init()  # Pillow loads some of these only when asked to.

_FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)

_ORIENTATION = 0x0112

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners use of 16; the smallest that holds all values of an image is taken to be white."""

# Of colours with 16 bits, Pillow keeps the high bytes; read in the other order, the low ones.
_OTHER_ORDER = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}

_TOP_BITS = 1 << 6  # of a high byte: a value that has one uses more than 14 bits

_PLANAR, _PHOTOMETRIC, _BITS = 284, 262, 258  # tags of TIFF

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_UNCLEAR = (1.0, 16.0)  # a largest float between these is neither of pictures from 0 to 1 nor of such from 0 to 255

# What Pillow and its decoders raise on damaged input, found by feeding them damaged images.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip


class BadImageError(DataError):
    """An image that cannot be read: missing, empty, not an image, damaged, too large, or without a meaning in RGB."""


def load_image(
    stored: Mapping[str, Any], *, min_side: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """Decode an image of a ``PairTable`` to 8-bit RGB.

    Rotated as its EXIF says; transparent parts over white; the first frame of an animation; 16 bits scaled by those of
    them that are used, not clipped; floats from 0 to 1, or as integers; CMYK, palette, grey and the like converted.

    Args:
        stored: the ``image`` cell of a row: ``bytes``, or ``path`` of a file, with ``offset`` and ``size`` if the image
            is a part of that file.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep this many pixels.
            None: full size.
        max_pixels: largest width x height, read from the header before anything is decoded.

    Raises:
        BadImageError: the image cannot be read.
    """
    where = describe(stored)
    with open_stored(stored) as stream:
        try:
            with Image.open(stream, formats=_FORMATS) as image:
                _check_size(image, max_pixels, where)
                if min_side is not None:
                    image.draft(None, (min_side, min_side))
                return _upright(image, to_rgb(_whole_range(image, stream, where), where))
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise BadImageError(_unreadable(error, where, stream)) from None
        except _DECODER_ERRORS as error:
            raise BadImageError(f"{where} is damaged ({_one_line(error)}); fetch it again or leave it out") from None


def read_bytes(stored: Mapping[str, Any]) -> bytes:
    """The encoded bytes of an image cell, for those who copy or embed it.

    Raises:
        BadImageError: the file is missing, unreadable or empty.
    """
    with open_stored(stored) as stream:
        return stream.read()


def open_stored(stored: Mapping[str, Any]) -> BinaryIO:
    """Open the encoded bytes of an image cell as a stream.

    Raises:
        BadImageError: the file is missing, unreadable or empty.
    """
    data = stored.get("bytes")
    if data is None:
        data = _read_file(stored)
    if not data:
        raise BadImageError(f"{describe(stored)} is empty (0 bytes); fetch it again or leave it out")
    return io.BytesIO(data)


def describe(stored: Mapping[str, Any]) -> str:
    """Name an image cell in a message."""
    path, offset = stored.get("path"), stored.get("offset")
    if path is None:
        return "embedded image"
    return f"image {path}" if offset is None else f"image at byte {offset} of {path}"


def to_rgb(image: Image.Image, where: str = "image") -> Image.Image:
    """Convert any Pillow image to 8-bit RGB: 16-bit grey is scaled by the bits in use, transparency goes over white.

    Raises:
        BadImageError: numbers below 0 or beyond 16 bits, or floats that nothing says the white of.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_grey(image, where)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _read_file(stored: Mapping[str, Any]) -> bytes:
    path = stored.get("path")
    if path is None:
        raise BadImageError("a row has neither image bytes nor an image path; rebuild the source")
    try:
        with Path(path).open("rb") as file:
            if stored.get("offset") is None:
                return file.read()
            file.seek(stored["offset"])
            data = file.read(stored["size"])
    except FileNotFoundError:
        raise BadImageError(f"image {path} is missing; check image_root, or fetch the file") from None
    except OSError as error:
        raise BadImageError(f"image {path} cannot be read ({_one_line(error)}); check the file") from None
    if len(data) < stored["size"]:
        raise BadImageError(f"{describe(stored)} ends early; the archive has changed since it was opened")
    return data


def _check_size(image: Image.Image, max_pixels: int, where: str) -> None:
    if math.prod(image.size) > max_pixels:
        width, height = image.size
        raise BadImageError(f"{where} has {width} x {height} pixels; shrink it, or raise max_pixels ({max_pixels})")


def _upright(opened: Image.Image, decoded: Image.Image) -> Image.Image:
    """Turn the decoded pixels as the EXIF block of the opened file says."""
    orientation = opened.getexif().get(_ORIENTATION, 1)
    if orientation == 1:
        return decoded
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    decoded.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(decoded)


def _scaled_grey(image: Image.Image, where: str) -> Image.Image:
    values = np.asarray(image)  # [H, W]
    least, most = float(values.min()), float(values.max())
    if not 0 <= least <= most <= 0xFFFF:  # not a number is neither
        raise BadImageError(f"{where} has {image.mode} pixels below 0 or beyond 16 bits; save it as 8-bit RGB")
    if np.issubdtype(values.dtype, np.floating):
        if _UNCLEAR[0] < most < _UNCLEAR[1]:
            raise BadImageError(
                f"{where} has floats of up to {most:.3g}, and nothing says which is white; save it as 8-bit RGB"
            )
        if most <= 1:
            values = values * 255
    return Image.fromarray(_eight_bits(values)).convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of up to 16 bits in 8, by the bits that the largest of them needs."""
    bits = next(bits for bits in _DEPTHS if values.max(initial=0) < 1 << bits)
    return np.round(values * (255 / ((1 << bits) - 1))).astype(np.uint8)


def _whole_range(image: ImageFile.ImageFile, stream: BinaryIO, where: str) -> Image.Image:
    """The same image; if it is a PNG or TIFF of 16 bits, in 8, scaled by those that it uses.

    Raises:
        BadImageError: it uses fewer than 15 in a way that Pillow cannot read in full.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:  # white is zero
        return Image.fromarray(255 - _eight_bits(np.asarray(image)))
    if image.format not in ("PNG", "TIFF") or image.mode not in ("RGB", "RGBA", "CMYK") or not image.tile:
        return image
    tiles = image.tile
    kind, _, order = _raw_mode(tiles[0]).partition(";")
    apart = tags.get(_PLANAR) == 2 and 16 in tags.get(_BITS, ())  # first all red values, then all green ones
    if apart and not order:  # Pillow would take bytes for values
        order = "16L" if tags.prefix == b"II" else "16B"
        tiles = image.tile = [_with_raw_mode(tile, f"{_raw_mode(tile)};{order}") for tile in tiles]
    if order not in _OTHER_ORDER:
        return image
    high = np.asarray(image).astype(np.uint16)  # [H, W, C]
    colours = 4 if image.mode == "CMYK" else 3
    if high[..., :colours].max(initial=0) >= _TOP_BITS:
        return image
    if kind == "RGBa" or (apart and order == "16N"):
        raise BadImageError(f"{where} is a dark TIFF of 16 bits, of which fewer may be in use; save it as 8-bit RGB")
    modes = ["RGBA" if kind == "LA" else _raw_mode(tile).replace(order, _OTHER_ORDER[order]) for tile in tiles]
    stream.seek(0)
    with Image.open(stream, formats=(image.format,)) as again:
        again.tile = [_with_raw_mode(tile, mode) for tile, mode in zip(tiles, modes, strict=True)]
        low = np.asarray(again).astype(np.uint16)
    if kind == "LA":  # both bytes of grey and of alpha at once
        high, low = low[..., [0, 0, 0, 2]], low[..., [1, 1, 1, 3]]
    values = high << 8 | low
    pixels = np.concatenate([_eight_bits(values[..., :colours]), _eight_bits(values[..., colours:])], axis=2)
    return Image.frombytes(image.mode, image.size, pixels.tobytes())


def _raw_mode(tile: Any) -> str:
    """How the pixels of a part of a file lie in it, in Pillow's words."""
    return tile.args if isinstance(tile.args, str) else str(tile.args[0])


def _with_raw_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _unreadable(error: Exception, where: str, stream: BinaryIO) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"{where} is too large to decode safely ({_one_line(error)}); shrink it"
    stream.seek(0)
    if stream.read(4) in _TIFF_HEADS:
        return f"{where} is a TIFF of a kind that is not read, or damaged; save it as 8-bit RGB, or leave it out"
    return f"{where} is not an image of a known format ({', '.join(_FORMATS)}); replace it or leave it out"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
