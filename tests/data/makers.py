"""Tiny sources of pairs, made by the tests themselves."""

import io
import json
import tarfile
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
