"""Every kind of picture that is read, and every kind that is refused, as bytes."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageFilter

from tests.data.makers import encoded, noise, tiff

_ORIENTATION = 0x0112


def picture(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with soft and with hard parts."""
    image = noise(1, size).filter(ImageFilter.GaussianBlur(2))
    image.paste(noise(2, (size[0] // 3, size[1] // 3)), (size[0] // 2, size[1] // 4))
    return image


def turned(orientation: int, kind: str = "JPEG", size: tuple[int, int] = (90, 60)) -> bytes:
    """A picture whose EXIF block says how it lies."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return encoded(picture(size), kind, exif=exif.tobytes())


def png(values: np.ndarray, kind: int) -> bytes:
    """A PNG of 8 or 16 bits [H, W, C] with so few or many colours as its kind says."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _header(width: int, height: int) -> bytes:
    """A PNG that says it is large, and holds nothing."""
    start = png(np.zeros((1, 1, 3), np.uint8), 2)
    name = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return start[:12] + name + struct.pack(">I", zlib.crc32(name)) + start[33:]


def _values(bits: int, channels: int, size: tuple[int, int] = (60, 90)) -> np.ndarray:
    """Numbers that use so many of 16 bits [H, W, C]."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, (*size, channels)).astype(np.uint16)
    values[0, 0] = (1 << bits) - 1
    return values


def _paletted(transparency: int | bytes | None) -> bytes:
    image = picture((90, 60)).quantize(40)
    return encoded(image) if transparency is None else encoded(image, transparency=transparency)


def _layered(mode: str = "RGBA") -> Image.Image:
    layered = picture((90, 60)).convert("RGBA")
    layered.putalpha(noise(3, (90, 60)).convert("L"))
    return layered.convert(mode)


def _animated(kind: str, **options: object) -> bytes:
    return encoded(picture((90, 60)), kind, save_all=True, append_images=[noise(4, (90, 60))], **options)


PLAIN = {
    "fine": encoded(picture(), "JPEG", quality=95, subsampling=0),
    "half": encoded(picture((161, 119)), "JPEG", quality=75, subsampling=1),
    "coarse": encoded(picture((161, 119)), "JPEG", quality=60, subsampling=2),
    "coarser": encoded(picture((161, 119)), "JPEG", quality=20, subsampling="4:1:1"),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "with restarts": encoded(picture(), "JPEG", restart_marker_rows=1),
    "with tables of its own": encoded(picture(), "JPEG", optimize=True),
    "stored as RGB": encoded(picture(), "JPEG", keep_rgb=True),
    "one pixel": encoded(picture((1, 1)), "JPEG"),
    "a line": encoded(picture((2000, 3)), "JPEG"),
    "followed by other bytes": encoded(picture(), "JPEG") + b"more" * 20,
    "turned by nothing": turned(1),
}
"""JPEGs of 8-bit RGB, upright."""

OTHERS = {f"turned {number}": turned(number) for number in range(2, 9)} | {
    "turned by what is no orientation": turned(9),
    "grey": encoded(picture().convert("L"), "JPEG"),
    "CMYK": encoded(picture().convert("CMYK"), "JPEG"),
    "several pictures": encoded(picture(), "MPO", save_all=True, append_images=[noise(4)]),
    "PNG": encoded(picture()),
    "PNG, turned": turned(6, "PNG"),
    "PNG, transparent": encoded(_layered()),
    "PNG, grey and transparent": encoded(_layered("LA")),
    "PNG, one transparent colour": encoded(picture((90, 60)), transparency=picture((90, 60)).getpixel((3, 3))),
    "PNG, grey": encoded(picture().convert("L")),
    "PNG, one bit": encoded(picture().convert("1")),
    "PNG, animated": _animated("PNG"),
    "palette": _paletted(None),
    "palette, one transparent colour": _paletted(3),
    "palette, half transparent": _paletted(bytes(range(0, 240, 6))),
    "16 bits of grey": png(_values(16, 1), 0),
    "10 bits of grey": png(_values(10, 1), 0),
    "16 bits of grey and alpha": png(_values(16, 2), 4),
    "12 bits of grey and alpha": png(_values(12, 2), 4),
    "16 bits of RGB": png(_values(16, 3), 2),
    "12 bits of RGB": png(_values(12, 3), 2),
    "12 bits of RGB and alpha": png(_values(12, 4), 6),
    "WebP": encoded(picture(), "WEBP"),
    "WebP, turned": turned(8, "WEBP"),
    "WebP, transparent": encoded(_layered(), "WEBP", lossless=True),
    "WebP, animated": _animated("WEBP", lossless=True),
    "GIF": encoded(picture(), "GIF"),
    "GIF, animated": _animated("GIF"),
    "BMP": encoded(picture(), "BMP"),
    "PPM": encoded(picture(), "PPM"),
    "PGM of 16 bits": encoded(Image.fromarray(_values(16, 1)[..., 0]), "PPM"),
    "JPEG 2000": encoded(picture(), "JPEG2000"),
    "TIFF": encoded(picture(), "TIFF"),
    "TIFF, turned": turned(3, "TIFF"),
    "TIFF, a JPEG inside": encoded(picture(), "TIFF", compression="jpeg"),
    "TIFF, transparent": encoded(_layered(), "TIFF"),
    "TIFF, CMYK": encoded(picture().convert("CMYK"), "TIFF"),
    "TIFF, one bit": encoded(picture().convert("1"), "TIFF"),
    "TIFF, 16 bits of grey": tiff(_values(16, 1)[..., 0], photometric=1),
    "TIFF, 12 bits of grey, white is zero": tiff(_values(12, 1)[..., 0], photometric=0),
    "TIFF, 16 bits of RGB": tiff(_values(16, 3), photometric=2, order=">"),
    "TIFF, 12 bits of RGB": tiff(_values(12, 3), photometric=2),
    "TIFF, 12 bits of RGB apart": tiff(_values(12, 3), photometric=2, planar=True),
    "TIFF, 16 bits of CMYK": tiff(_values(16, 4), photometric=5, deflate=True),
    "TIFF, 32 bits of grey": encoded(Image.fromarray(_values(16, 1)[..., 0].astype(np.int32)), "TIFF"),
    "TIFF, floats to one": tiff((_values(16, 1)[..., 0] / 65535).astype(np.float32), photometric=1),
    "TIFF, floats as integers": tiff(_values(8, 1)[..., 0].astype(np.float32), photometric=1),
}
"""What Pillow decodes, whatever else is installed."""

REFUSED = {
    "empty": b"",
    "a page": b"<html>404</html>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "a PNG cut short": encoded(noise(0))[:-200],
    "a JPEG cut short": encoded(noise(0), "JPEG")[:-300],
    "a JPEG cut in its header": encoded(noise(0), "JPEG")[:100],
    "a progressive JPEG cut short": encoded(noise(0), "JPEG", progressive=True)[:-300],
    "a grey JPEG cut short": encoded(noise(0).convert("L"), "JPEG")[:-300],
    "a turned JPEG cut short": turned(6)[:-300],
    "a WebP cut short": encoded(noise(0), "WEBP")[:-100],
    "a GIF cut short": encoded(noise(0), "GIF")[:-500],
    "a PNG without an end": encoded(noise(0))[:20],
    "numbers below zero": encoded(Image.new("F", (4, 4), -0.5), "TIFF"),
    "no numbers": encoded(Image.new("F", (4, 4), float("nan")), "TIFF"),
    "floats of no known white": encoded(Image.new("F", (4, 4), 1.5), "TIFF"),
    "numbers beyond 16 bits": encoded(Image.new("I", (4, 4), 1 << 20), "TIFF"),
    "floats of RGB": tiff(np.zeros((4, 4, 3), np.float32), photometric=2),
    "huge": _header(10_000, 9_000),
    "far beyond huge": _header(60_000, 60_000),
}
"""What no decoder may read."""
