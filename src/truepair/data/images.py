"""Images from bytes to 8-bit RGB, with a typed error for each way they can be bad."""

import io
import math
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from truepair.errors import DataError

DEFAULT_MAX_PIXELS = 89_478_485
"""Largest width x height that is decoded: 256 MiB as 8-bit RGB, the limit at which Pillow itself starts to warn. What
has more bytes a pixel may have fewer pixels, so that it decodes to no more bytes."""

_STRIP = 256  # rows of pixels that are converted at once: a conversion takes several times the bytes of its image

_OTHER_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)

# What Pillow may try. Its list of formats is longer; EPS, for one, starts an outside program.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

Image.init()  # Pillow loads some of these only when asked to.

_FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)

_ORIENTATION = 0x0112

_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width

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
        max_pixels: largest width x height, read from the header before anything is decoded; of images of more than
            three bytes a pixel accordingly less.

    Raises:
        BadImageError: the image cannot be read.
    """
    with opened_image(stored, max_pixels) as opened:
        if min_side is not None:
            opened.reduce(min_side, min_side)
        decoded = opened.decoded()
        return decoded.copy() if decoded is opened.header else decoded


class OpenedImage:
    """An image of which the header is read, and no pixel is decoded yet.

    What orientation and size say before it is decoded, they say of JPEGs alone: the EXIF block of a PNG may lie behind
    its pixels, and to look for it decodes them.

    Attributes:
        header: as Pillow opened it.
        where: names it in messages.
    """

    def __init__(self, header: ImageFile.ImageFile, stream: BinaryIO, where: str) -> None:
        self.header = header
        self.where = where
        self._stream = stream

    @property
    def is_jpeg(self) -> bool:
        """Whether it is an ordinary JPEG."""
        return self.header.format == "JPEG"

    @cached_property
    def orientation(self) -> int:
        """1 to 8, as its EXIF says; 1 is upright."""
        orientation: int = self.header.getexif().get(_ORIENTATION, 1)
        return orientation

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what would be decoded now, turned as its EXIF says."""
        width, height = self.header.size
        return (width, height) if self.orientation in _SIDEWAYS else (height, width)

    @property
    def encoded(self) -> bytes:
        """All bytes of the file."""
        self._stream.seek(0)
        return self._stream.read()

    def reduce(self, height: int, width: int) -> None:
        """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, if its stored sides keep so many pixels; others stay."""
        self.header.draft(None, (width, height))

    def decoded(self) -> Image.Image:
        """Decode it to 8-bit RGB, upright; once, and not to be kept: what needs no change is the header itself."""
        return _upright(self.header, to_rgb(_whole_range(self.header, self._stream, self.where), self.where))


@contextmanager
def opened_image(stored: Mapping[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[OpenedImage]:
    """Open an image cell; what goes wrong while it is open, decoding it too, is a bad image.

    Args:
        stored: as of :func:`load_image`, like the next.
        max_pixels: largest width x height.

    Raises:
        BadImageError: the image cannot be read.
    """
    where = describe(stored)
    with memory_for(where), open_stored(stored, max_pixels) as stream:
        try:
            with Image.open(stream, formats=_FORMATS) as image:
                _check_size(image, max_pixels, where)
                yield OpenedImage(image, stream, where)
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise BadImageError(_unreadable(error, where, stream)) from None
        except _DECODER_ERRORS as error:
            raise BadImageError(f"{where} is damaged ({_one_line(error)}); fetch it again or leave it out") from None


def read_bytes(stored: Mapping[str, Any]) -> bytes:
    """The encoded bytes of an image cell, for those who copy or embed it.

    Raises:
        BadImageError: the file is missing, unreadable, empty, or too large.
    """
    with memory_for(describe(stored)), open_stored(stored) as stream:
        return stream.read()


def open_stored(stored: Mapping[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS) -> BinaryIO:
    """Open the encoded bytes of an image cell as a stream.

    Args:
        stored: the cell.
        max_pixels: as of :func:`load_image`; an encoded image has no more bytes than so many pixels uncompressed.

    Raises:
        BadImageError: the file is missing, unreadable, empty, or too large.
    """
    data = stored.get("bytes")
    if data is None:
        data = _read_file(stored, max_pixels * 3 * 2)  # three colours of 16 bits
    if not data:
        raise BadImageError(f"{describe(stored)} is empty (0 bytes); fetch it again or leave it out")
    return io.BytesIO(data)


@contextmanager
def memory_for(where: str) -> Iterator[None]:
    """Turn a want of memory for one image into a bad image.

    Raises:
        BadImageError: there is too little.
    """
    try:
        yield
    except MemoryError:
        raise BadImageError(f"{where} needs more memory than there is; shrink it or leave it out") from None


def what_else(path: str | Path) -> str:
    """What stands under a path that is no file, such as "a pipe"; empty where it is one. It is not opened.

    To open a pipe waits for its writer, who may never come, and a device may do anything.

    Raises:
        OSError: nothing is there, or it cannot be looked at.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 it is asked for each of millions
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_one, name in _OTHER_KINDS if is_one(mode)), "a device")


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
        return _in_strips(image, _over_white)
    if image.mode == "RGB":
        image.load()
        return image  # to convert it would be to copy it
    return image.convert("RGB")


def _read_file(stored: Mapping[str, Any], most: int) -> bytes:
    path = stored.get("path")
    if path is None:
        raise BadImageError("a row has neither image bytes nor an image path; rebuild the source")
    try:
        if other := what_else(path):
            raise BadImageError(f"image {path} cannot be read: it is {other}, not a file; replace it or leave it out")
        offset = stored.get("offset")
        with open(path, "rb", buffering=0 if offset is None else -1) as file:  # noqa: PTH123 as above
            size = os.fstat(file.fileno()).st_size if offset is None else stored.get("size")
            if size is not None and size > most:
                raise BadImageError(f"{describe(stored)} has {size / 1e6:,.0f} MB; shrink it or leave it out")
            if offset is None:
                return file.read()
            file.seek(offset)
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
    depth = _bytes_a_pixel(image)
    if math.prod(image.size) * depth > max_pixels * 3:
        width, height = image.size
        raise BadImageError(
            f"{where} has {width} x {height} pixels of {depth} bytes; shrink it, save it as 8-bit RGB, or raise "
            f"max_pixels ({max_pixels})"
        )


def _bytes_a_pixel(image: Image.Image) -> int:
    """Bytes of a pixel as the file states it, before Pillow takes the lower half of 16 bits away."""
    tiles = getattr(image, "tile", None)
    wide = ";16" in f"{tiles[0].args if tiles else ''} {image.mode}"
    return len(image.getbands()) * (4 if image.mode in ("I", "F") else 2 if wide else 1)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image that is converted some rows at a time."""
    width, height = image.size
    whole = Image.new("RGB", image.size)
    image.load()  # some formats read with the pixels what stands in ``info``, such as a transparent colour
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        whole.paste(convert(image.crop((0, top, width, bottom))), (0, top))
    return whole


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


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
    extremes = float(values.min()), float(values.max())
    if not 0 <= extremes[0] <= extremes[1] <= 0xFFFF:  # not a number is neither
        raise BadImageError(f"{where} has {image.mode} pixels below 0 or beyond 16 bits; save it as 8-bit RGB")
    white, largest = 1, extremes[1]
    if np.issubdtype(values.dtype, np.floating):
        if _UNCLEAR[0] < largest < _UNCLEAR[1]:
            raise BadImageError(
                f"{where} has floats of up to {largest:.3g}, and nothing says which is white; save it as 8-bit RGB"
            )
        white = 255 if largest <= 1 else 1
    return _in_strips(
        image, lambda strip: Image.fromarray(_eight_bits(np.asarray(strip) * white, largest * white)).convert("RGB")
    )


def _eight_bits(values: NDArray[Any], largest: float) -> NDArray[np.uint8]:
    """Values of up to 16 bits in 8, by the bits that the largest of their image needs."""
    bits = next(bits for bits in _DEPTHS if largest < 1 << bits)
    return np.round(values * (255 / ((1 << bits) - 1))).astype(np.uint8)


def _whole_range(image: ImageFile.ImageFile, stream: BinaryIO, where: str) -> Image.Image:
    """The same image; if it is a PNG or TIFF of 16 bits, in 8, scaled by those that it uses.

    Raises:
        BadImageError: it uses fewer than 15 in a way that Pillow cannot read in full.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:  # white is zero
        largest_value = int(np.asarray(image).max())
        return _in_strips(image, lambda strip: Image.fromarray(255 - _eight_bits(np.asarray(strip), largest_value)))
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
    image.load()
    colours = 4 if image.mode == "CMYK" else 3
    if max(int(band[1]) for band in image.getextrema()[:colours]) >= _TOP_BITS:  # type: ignore[index]  # a pair a band
        return image
    if kind == "RGBa" or (apart and order == "16N"):
        raise BadImageError(f"{where} is a dark TIFF of 16 bits, of which fewer may be in use; save it as 8-bit RGB")
    modes = ["RGBA" if kind == "LA" else _raw_mode(tile).replace(order, _OTHER_ORDER[order]) for tile in tiles]
    stream.seek(0)
    with Image.open(stream, formats=(image.format,)) as again:
        again.tile = [_with_raw_mode(tile, mode) for tile, mode in zip(tiles, modes, strict=True)]
        again.load()
        strips = [(top, min(top + _STRIP, image.height)) for top in range(0, image.height, _STRIP)]
        tops = [_values(image, again, strip, kind).max(axis=(0, 1)) for strip in strips]  # [C] each
        largest = np.max(tops, axis=0)  # [C]
        most, clear = int(largest[:colours].max()), int(largest[colours:].max(initial=0))
        whole = Image.new(image.mode, image.size)
        for strip in strips:
            values = _values(image, again, strip, kind)
            parts = [_eight_bits(values[..., :colours], most), _eight_bits(values[..., colours:], clear)]
            pixels = np.concatenate(parts, axis=2)
            whole.paste(Image.frombytes(image.mode, (image.width, len(pixels)), pixels.tobytes()), (0, strip[0]))
    return whole


def _values(high: Image.Image, low: Image.Image, rows: tuple[int, int], kind: str) -> NDArray[np.uint16]:
    """The 16-bit values of some rows of an image, from its high and its low bytes [S, W, C]."""
    box = (0, rows[0], high.width, rows[1])
    upper, lower = (np.asarray(half.crop(box)).astype(np.uint16) for half in (high, low))
    if kind == "LA":  # both bytes of grey and of alpha at once
        upper, lower = lower[..., [0, 0, 0, 2]], lower[..., [1, 1, 1, 3]]
    both: NDArray[np.uint16] = np.bitwise_or(upper << 8, lower, dtype=np.uint16)
    return both


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
