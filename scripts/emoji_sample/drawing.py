"""From an icon to a small picture: rasterise the SVG on white, centre it, compress it without loss."""

import io
from collections.abc import Mapping
from typing import Any, cast

import resvg_py
from PIL import Image

from .sources import SampleError

SIZE = 72
"""Width and height of every picture, in pixels."""


def draw(data: Mapping[str, Any], icon: str) -> bytes:
    """Return icon `icon` of the Iconify set `data` as a lossless WebP file of SIZE x SIZE RGB pixels.

    Raises:
        SampleError: The icon cannot be drawn, or nothing is to be seen.
    """
    body = data["icons"][icon]
    left, top = body.get("left", 0), body.get("top", 0)
    width, height = (body.get(side, data.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body["body"]}</svg>'
    )
    across = max(1, round(width * SIZE / max(width, height)))
    try:
        # System fonts would make the pixels depend on the machine.
        png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", width=across, skip_system_fonts=True)
    except ValueError as error:
        raise SampleError(f"icon {data['prefix']}:{icon} cannot be drawn: {error}") from None
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if is_blank(picture):
        raise SampleError(f"icon {data['prefix']}:{icon} is blank")
    return _encode(_centred(picture))


def is_blank(picture: Image.Image) -> bool:
    """Whether no channel of the RGB picture varies visibly."""
    extrema = cast("tuple[tuple[int, int], ...]", picture.getextrema())
    return all(high - low < 8 for low, high in extrema)


def _centred(picture: Image.Image) -> Image.Image:
    square = Image.new("RGB", (SIZE, SIZE), "white")
    square.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return square


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # For lossless files "quality" is effort: 100 would take twenty times as long, to save one per cent.
    picture.save(buffer, "WEBP", lossless=True, quality=80, method=6)
    return buffer.getvalue()
