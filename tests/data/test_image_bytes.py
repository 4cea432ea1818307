"""What is no file is never opened, and what one image may take of memory is bounded."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.makers import encoded, noise, picture, put, put_jsonl
from truepair.data import BadImageError, ImageTransform, PairDataset, images, load_image, open_pairs
from truepair.data.images import read_bytes
from truepair.errors import DataError


def make(kind: str, path: Path) -> None:
    """What is no file, under a path."""
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 107 characters
        try:
            with socket.socket(socket.AF_UNIX) as opened:
                opened.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a socket"])
def test_what_is_no_file_is_a_bad_picture_and_never_opened(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "odd.png")
    put(tmp_path / "good.png", picture())
    for read in (load_image, read_bytes):
        with pytest.raises(BadImageError, match=rf"odd\.png cannot be read: it is {kind}, not a file; replace it or"):
            read({"path": str(tmp_path / "odd.png")})
    source = put_jsonl(tmp_path / "x.jsonl", [{"image": f, "caption": f} for f in ("odd.png", "good.png")])
    dataset = PairDataset(open_pairs(source, identity="bytes"), ImageTransform(np.asarray))
    assert kind in dataset[0]["reason"] and dataset[0]["substituted"]


def test_a_text_that_is_a_pipe_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", picture())
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("a thing")
    table = open_pairs(tmp_path, max_skipped=0.5)
    assert table.skipped[0] == ("a.png", "its text is a pipe, not a file")


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl", "pairs.json", "pairs.parquet", "pairs.tar"])
def test_a_source_that_is_a_pipe_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is a pipe, not a file; "):
        open_pairs(tmp_path / name)


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_shard_that_is_a_pipe_is_refused(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(DataError, match="is a pipe, not a file; take it out of"):
        open_pairs(tmp_path)


def png(width: int, bits: int, kind: int, pixel: bytes) -> bytes:
    """A square of one colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, bits, kind, 0, 0, 0))
    data = zlib.compress((b"\0" + pixel * width) * width)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "depth"),
    [
        (png(100, 16, 6, b"\1\0" * 4), 8),
        (png(100, 16, 2, b"\1\0" * 3), 6),
        (png(100, 8, 6, b"\1\1\1\1"), 4),
        (encoded(Image.new("CMYK", (100, 100)), "TIFF"), 4),
        (encoded(Image.new("I;16", (100, 100)), "TIFF"), 2),
        (encoded(Image.new("RGB", (100, 100)), "TIFF"), 3),
    ],
)
def test_bytes_are_bounded_not_pixels(content: bytes, depth: int) -> None:
    most = -(-10_000 * max(depth, 3) // 3)
    assert load_image({"bytes": content}, max_pixels=most).size == (100, 100)
    with pytest.raises(BadImageError, match=r"raise max_pixels \(\d+\)$") as error:
        load_image({"bytes": content}, max_pixels=most - 1)
    assert (f"has 100 x 100 pixels of {depth} bytes; shrink it, save it as" in str(error.value)) == (depth > 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "16 bits"])
def test_an_image_comes_in_strips_as_in_one(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "16 bits":
        content = png(70, 16, 6, bytes.fromhex("0012003401230f00"))
    else:
        layered = noise(0, (70, 50)).convert("RGBA")
        layered.putalpha(noise(1, (70, 50)).convert("L"))
        content = encoded(layered.quantize(60) if mode == "PA" else layered.convert(mode))
    whole = load_image({"bytes": content})
    monkeypatch.setattr(images, "_STRIP", 7)
    assert np.array_equal(np.asarray(load_image({"bytes": content})), np.asarray(whole))


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(20 << 30)  # takes no room on the disk
    with pytest.raises(BadImageError, match=r"large\.jpg has 21,475 MB; shrink it or leave it out"):
        load_image({"path": str(tmp_path / "large.jpg")})


def test_a_want_of_memory_for_one_picture_is_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", picture())
    entries = [{"image": f"{name}.png", "caption": name} for name in ("a", "b")]
    table = open_pairs(put_jsonl(tmp_path / "x.jsonl", entries), identity="id")

    def scarce(image: Image.Image) -> np.ndarray:
        if not calls:
            calls.append(1)
            raise MemoryError
        return np.asarray(image)

    calls: list[int] = []
    sample = PairDataset(table, ImageTransform(scarce))[0]
    assert "a.png needs more memory than there is; shrink it or leave it out" in sample["reason"]
    monkeypatch.setattr(images, "to_rgb", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(BadImageError, match="needs more memory than there is"):
        load_image({"path": str(tmp_path / "a.png")})
