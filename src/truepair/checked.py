"""What caches share: files that tell by a checksum when they are damaged, one maker at a time, and a line on it."""

import json
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

from truepair.errors import DataError, MadeAgain
from truepair.files import clear_asides, discard, write_json, writing_file

CHECKS = ("times", "bytes")
"""How the inputs of a cache are compared with what they were: by size and time of change, or byte by byte."""

_CHECKSUM = "checksum"  # field of a JSON file

_DIGEST = 16  # bytes of a checksum

_READ = 4 << 20  # bytes at a time

_ALWAYS_READ = 2 << 30  # bytes; larger files are read where they have been touched

_PATIENCE = 5.0  # seconds that a lock is waited for in silence


class UncheckedError(ValueError):
    """A file that has no checksum, as those of earlier versions."""


def tell(line: str) -> None:
    """Say in one line what becomes of a cache; the second time, the same line is not repeated."""
    warnings.warn(line, MadeAgain, stacklevel=2)


def checksum(file: Path) -> str:
    """The checksum of all bytes of a file, 32 hexadecimal digits; half a second a gigabyte, or as fast as the disk.

    Raises:
        OSError: it is no file, or cannot be read.
    """
    return hash_of(file).hexdigest()


def hash_of(file: Path) -> xxhash.xxh3_128:
    """The hash of all bytes of a file, to go on with.

    Raises:
        OSError: it is no file, or cannot be read.
    """
    require_file(file)
    state = xxhash.xxh3_128()
    part = memoryview(bytearray(_READ))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(part):
            state.update(part[:count])
    return state


def require_file(path: Path) -> None:
    """Refuse a folder or a pipe where a file should be, before it is opened: a pipe would never answer.

    Raises:
        OSError: there is nothing, or something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is no file")


def require_whole(file: Path, size: int, digest: str) -> bool:
    """Compare a file with what was written. Up to 2 GiB it is read each time, a larger one where it was touched since.

    When a large one was read last stands beside it, in ``<name>.read``.

    Args:
        file: the file.
        size: bytes.
        digest: its ``checksum``.

    Returns:
        Whether it was read now.

    Raises:
        OSError: it cannot be read.
        ValueError: it has other bytes.
    """
    require_file(file)
    found = file.stat()
    if found.st_size != size:
        raise ValueError(f"{file.name} has {found.st_size:,} bytes in place of {size:,}")
    seen = {"size": size, "time": found.st_mtime_ns, "changed": found.st_ctime_ns, "digest": digest}
    note = file.with_name(f"{file.name}.read")
    if size > _ALWAYS_READ:
        with suppress(OSError, ValueError):
            if read_checked_json(note) == seen:
                return False
    if checksum(file) != digest:
        raise ValueError(f"the checksum of {file.name} does not match")
    if size > _ALWAYS_READ:
        with suppress(OSError):  # in a folder of others it is read again next time
            write_checked_json(note, seen)
    return True


def write_checked_json(final: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, with its checksum as one more field.

    Raises:
        OSError: the disk refuses.
    """
    _make_room(final)
    write_json(final, {_CHECKSUM: _of_json(value), **value}, error=None)


def read_checked_json(file: Path) -> dict[str, Any]:
    """Read what ``write_checked_json`` wrote.

    Raises:
        OSError: it is missing, or cannot be read.
        UncheckedError: it has no checksum.
        ValueError: it is damaged.
    """
    require_file(file)
    value = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(value, dict) and _CHECKSUM not in value:
        raise UncheckedError(f"{file.name} has no checksum: it is of an earlier version")
    if not isinstance(value, dict) or value.pop(_CHECKSUM, None) != _of_json(value):
        raise ValueError(f"the checksum of {file.name} does not match")
    return value


def write_checked(final: Path, data: bytes) -> None:
    """Write bytes behind their checksum.

    Raises:
        OSError: the disk refuses.
    """
    _make_room(final)
    with writing_file(final, error=None) as file:
        file.write(xxhash.xxh3_128_digest(data))
        file.write(data)


def read_checked(file: Path) -> bytes:
    """Read what ``write_checked`` wrote.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is damaged.
    """
    require_file(file)
    found = file.read_bytes()
    data = found[_DIGEST:]
    if xxhash.xxh3_128_digest(data) != found[:_DIGEST]:
        raise ValueError(f"the checksum of {file.name} does not match")
    return data


@contextmanager
def one_maker(final: Path, advice: str) -> Iterator[None]:
    """Hold the lock of a file or folder: of several processes that would make it, one does, and the others wait.

    The lock is a file beside it, ``<name>.lock``, which stays; the system gives it up when its holder ends, however.

    Args:
        final: what is made.
        advice: what the message tells to do where the folder cannot be written.

    Raises:
        DataError: the folder cannot be written, or its file system has no locks.
    """
    place = final.with_name(f"{final.name}.lock")
    lock = FileLock(place)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or (place.exists() and not place.is_file()):
            discard(place)
        elif place.exists() and not os.access(place, os.R_OK | os.W_OK):
            place.chmod(0o644)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            tell(f"waiting for another process, which makes {final}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the cache folder {final.parent} cannot be written ({reason}); {advice}") from None
    try:
        yield
    finally:
        lock.release()


def _make_room(final: Path) -> None:
    """Remove a folder or a pipe that lies where a file is to be, and what killed processes left of that file."""
    if os.path.lexists(final) and not final.is_file():
        discard(final)
    clear_asides(final.parent, final.name)


def _of_json(value: Mapping[str, Any]) -> str:
    """The checksum of a mapping's values, however they are laid out."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode("utf-8", "surrogateescape"))
