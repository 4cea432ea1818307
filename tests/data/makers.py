"""Tiny sources of pairs, made by the tests themselves."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}


def picture(colour: str = "red", size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.new("RGB", size, COLOURS[colour])


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(
    values: np.ndarray, *, photometric: int, order: str = "<", planar: bool = False, deflate: bool = False
) -> bytes:
    """A TIFF of any numbers [H, W] or [H, W, C], as no library here writes them; a fourth colour is alpha."""
    height, width = values.shape[:2]
    planes = 1 if values.ndim == 2 else values.shape[2]
    data = (np.moveaxis(values, 2, 0) if planar else values).astype(values.dtype.newbyteorder(order)).tobytes()
    strips = [data] if not planar else [data[k * len(data) // planes :][: len(data) // planes] for k in range(planes)]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    start = 400  # of the pixels, behind all tags
    places = [start + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * planes, 259: [8 if deflate else 1]}
    tags |= {262: [photometric], 273: places, 277: [planes], 278: [height], 279: [len(strip) for strip in strips]}
    tags |= {284: [2 if planar else 1], 339: [3 if values.dtype.kind == "f" else 1] * planes}
    if photometric < 3 and planes in (2, 4):
        tags[338] = [2]
    head, tail, behind = b"", b"", 14 + 12 * len(tags)
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        head += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        head += packed if len(packed) == 4 else struct.pack(f"{order}I", behind + len(tail))
        tail += packed if len(packed) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    begin = mark + struct.pack(f"{order}IH", 8, len(tags)) + head + bytes(4) + tail
    return begin.ljust(start, b"\0") + b"".join(strips)


def put(path: Path, content: bytes | str | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image.Image):
        content = encoded(content, "JPEG" if path.suffix == ".jpg" else "PNG")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def put_json(path: Path, content: Any) -> Path:
    return put(path, json.dumps(content))


def put_jsonl(path: Path, entries: Iterable[dict[str, Any]]) -> Path:
    return put(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def put_tar(path: Path, members: Iterable[tuple[str, bytes | str]], mode: Literal["w", "w:gz"] = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def photos(folder: Path, count: int) -> Path:
    """A JSONL source of ``count`` photographs of noise, with two captions each."""
    for number in range(count):
        put(folder / "images" / f"{number}.png", noise(number))
    entries = (
        {"image": f"images/{number}.png", "captions": [f"picture {number}", f"number {number}"]}
        for number in range(count)
    )
    return put_jsonl(folder / "pairs.jsonl", entries)


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image, dtype=float).mean((0, 1)).round().astype(int).tolist())
