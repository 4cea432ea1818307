"""What is wrong with pictures as files: each is opened once."""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from truepair.data.images import BadImageError, load_image, read_bytes
from truepair.data.table import PairTable

THUMBNAIL = 16  # pixels a side

_SIDE = 64  # pixels a side that a picture is decoded at, at least

_CELLS = 256  # cells read at once

_ORIENTATION = 0x0112  # of EXIF

CMYK, SIXTEEN_BIT, ANIMATED, ROTATED = "cmyk", "sixteen_bit", "animated", "rotated"
"""Kinds of files that programs read in different ways."""

KINDS = (CMYK, SIXTEEN_BIT, ANIMATED, ROTATED)

_KINDS_OF_16_BIT = ("I;16", "I;16B", "I;16L", "I")


@dataclass(frozen=True, slots=True)
class Looked:
    """What one picture turned out to be.

    Attributes:
        problem: why it cannot be decoded; empty where it can.
        size: width and height as it is shown, in pixels.
        kinds: some of ``KINDS``.
        hash: its perceptual hash, 64 bits.
        thumbnail: uint8 [16, 16, 3].
    """

    problem: str = ""
    size: tuple[int, int] = (0, 0)
    kinds: tuple[str, ...] = ()
    hash: int = 0
    thumbnail: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PictureFacts:
    """What P pictures turned out to be.

    Attributes:
        problems: number of a picture -> why it cannot be decoded.
        sizes: width and height as they are shown, in pixels, int64 [P, 2]; 0 where unknown.
        kinds: name of a kind -> which pictures are of it [P].
        hashes: perceptual hashes, uint64 [P].
        thumbnails: uint8 [P, 16, 16, 3].
    """

    problems: dict[int, str]
    sizes: NDArray[np.int64]
    kinds: dict[str, NDArray[np.bool_]]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]

    @property
    def decoded(self) -> NDArray[np.bool_]:
        """Which pictures can be decoded [P]."""
        return self.sizes[:, 0] > 0

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which pictures are of one colour [P]."""
        spread = self.thumbnails.max(axis=(1, 2)).astype(int) - self.thumbnails.min(axis=(1, 2))  # [P, 3]
        return np.asarray(self.decoded & (spread.max(axis=1) <= 2), bool)


def look_at_pictures(
    table: PairTable, rows: NDArray[np.int64], progress: Callable[[int, int], None], workers: int | None = None
) -> PictureFacts:
    """Open the pictures of some rows, each once.

    Args:
        table: where they are.
        rows: a row of each picture [P]; those whose file is missing are left out before.
        progress: called with (done, all).
        workers: threads that read and decode; None for one a core. Pillow decodes without holding Python's lock.
    """
    count = len(rows)
    facts = PictureFacts(
        problems={},
        sizes=np.zeros((count, 2), np.int64),
        kinds={kind: np.zeros(count, bool) for kind in KINDS},
        hashes=np.zeros(count, np.uint64),
        thumbnails=np.zeros((count, THUMBNAIL, THUMBNAIL, 3), np.uint8),
    )
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = chain.from_iterable(pool.map(look_at, cells) for cells in _cells(table, rows))
        for place, looked in enumerate(found):
            if looked.problem:
                facts.problems[place] = looked.problem
            facts.sizes[place] = looked.size
            facts.hashes[place] = looked.hash
            for kind in looked.kinds:
                facts.kinds[kind][place] = True
            if looked.thumbnail is not None:
                facts.thumbnails[place] = looked.thumbnail
            if place % 64 == 63:
                progress(place + 1, count)
    progress(count, count)
    return facts


def look_at(stored: dict[str, Any]) -> Looked:
    """Read and decode one picture.

    Args:
        stored: its cell of a table, see ``load_image``.
    """
    try:
        data = read_bytes(stored)
        picture = load_image({"bytes": data, "path": stored.get("path")}, min_side=_SIDE)
        with Image.open(io.BytesIO(data)) as opened:
            size, kinds = _size(opened), _kinds(opened)
    except BadImageError as error:
        return Looked(str(error))
    perceptual = np.packbits(imagehash.phash(picture).hash).view(">u8")[0]
    thumbnail = np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return Looked("", size, kinds, int(perceptual), thumbnail)


def _cells(table: PairTable, rows: NDArray[np.int64]) -> Iterator[list[dict[str, Any]]]:
    """The image cells of some rows, in parts."""
    for start in range(0, len(rows), _CELLS):
        yield table.select(rows[start : start + _CELLS]).values("image")


def _size(opened: Image.Image) -> tuple[int, int]:
    """Width and height as the picture is shown."""
    width, height = opened.size
    return (height, width) if opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


def _kinds(opened: Image.Image) -> tuple[str, ...]:
    """What of ``KINDS`` a picture is; asked before it is decoded, since Pillow then forgets how it was stored."""
    stored_wide = any(";16" in str(tile[3]) for tile in getattr(opened, "tile", []))
    is_kind = {
        CMYK: opened.mode in ("CMYK", "YCCK"),
        SIXTEEN_BIT: opened.mode in _KINDS_OF_16_BIT or stored_wide,
        ANIMATED: getattr(opened, "n_frames", 1) > 1,
        ROTATED: opened.getexif().get(_ORIENTATION, 1) not in (0, 1),
    }
    return tuple(kind for kind, found in is_kind.items() if found)
