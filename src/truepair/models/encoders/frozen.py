"""States of frozen encoders on disk, computed once."""

import json
import math
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from filelock import FileLock
from torch import Tensor

from truepair.errors import CheckpointError, DataError
from truepair.files import move_folder, write_json

FORMAT = 1

CACHE_MANIFEST = "manifest.json"

STATES = "states.f16"

_RECORD = "progress.json"

_FIELDS = {"format", "key", "rows", "shape", "crc32", "unreadable"}

_SECONDS_BETWEEN_RECORDS = 10.0

_VERIFIED_BYTES = 2 << 30

_READ = 16 << 20

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


class StateBlock(NamedTuple):
    """States of B consecutive rows."""

    states: Tensor
    """[B, *shape], any floating type."""
    reasons: Sequence[str] = ()
    """Why the input of a row could not be read, empty where it could; no reasons at all if all could."""


@dataclass(frozen=True)
class FrozenStates:
    """A row of float16 states for each of R things, on disk, memory-mapped: gathering a batch reads only its rows.

    A cache is one folder: the raw numbers and a manifest with their checksum. The system keeps as much of the file in
    memory as it has room for; nothing else is held. Rows take ``2 * prod(shape)`` bytes: 40 KB for an image of 4 x 4
    states of width 1280, so 115 MB for 2,800 images.

    Attributes:
        path: the folder.
        key: what the states were computed from.
        shape: shape of one row, such as (N, W).
        unreadable: row number and reason, for rows whose input could not be read; their states are another row's.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    unreadable: dict[int, str]
    _states: Tensor = field(repr=False)  # float16 [R, *shape]

    @classmethod
    def open(cls, path: Path, key: str | None = None) -> Self:
        """Open a finished cache.

        The checksum is verified up to 2 GiB; of a larger file, only its size.

        Args:
            path: its folder.
            key: what it must have been computed from; None takes any.

        Raises:
            CheckpointError: it is missing, damaged, or was computed from something else.
        """
        manifest = _read_manifest(path)
        rows, shape = manifest["rows"], tuple(manifest["shape"])
        if key is not None and manifest["key"] != key:
            raise CheckpointError(f"cache {path} was computed from something else; delete it")
        count = rows * math.prod(shape)
        file = path / STATES
        if not file.is_file() or file.stat().st_size != 2 * count:
            raise CheckpointError(f"cache {path} is damaged ({STATES} is missing or of a wrong size); delete it")
        if 2 * count <= _VERIFIED_BYTES and _checksum(file) != manifest["crc32"]:
            raise CheckpointError(f"cache {path} is damaged (the checksum of {STATES} does not match); delete it")
        states = torch.from_file(str(file), shared=False, size=count, dtype=torch.float16) if count else torch.empty(0)
        unreadable = {int(row): reason for row, reason in manifest["unreadable"].items()}
        return cls(path, manifest["key"], shape, unreadable, states.view(rows, *shape))

    @classmethod
    def open_or_compute(
        cls,
        folder: Path,
        key: str,
        rows: int,
        shape: Sequence[int],
        compute: Callable[[int], Iterator[StateBlock]],
        *,
        label: str = "states",
        progress: Progress | None = None,
    ) -> Self:
        """Open the cache of a key, or compute it first.

        An interrupted computation goes on where its last record on disk ends. A damaged cache is named in a warning and
        computed again. Of several processes that ask for the same cache, one computes and the others wait for it.

        Args:
            folder: where caches are kept; each gets a folder ``<label>-<start of key>`` in it.
            key: of everything the states depend on; see `combined_key`.
            rows: R.
            shape: shape of one row.
            compute: given the first row wanted, yields blocks of consecutive rows up to the last.
            label: start of the folder's name.
            progress: called with (rows done, rows in all) after each block.

        Raises:
            DataError: no room on the disk, or states beyond the range of float16.
        """
        path = folder / f"{label}-{key[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.exists():
                try:
                    return cls.open(path, key)
                except CheckpointError as error:
                    warnings.warn(f"{error}; it is computed again", stacklevel=2)
            _Build(path, key, rows, tuple(shape)).run(compute, progress)
            return cls.open(path, key)

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """States of some rows, float32 [B, *shape]."""
        return self.gather(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the place on disk, so that a worker process maps the file instead of getting a copy of it."""
        return FrozenStates.open, (self.path, self.key)

    @property
    def nbytes(self) -> int:
        """Size of the states on disk, in bytes."""
        return 2 * self._states.numel()

    def gather(self, rows: Tensor | Sequence[int] | slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """States of some rows.

        Args:
            rows: row numbers [B], or a slice.
            dtype: of the result.

        Returns:
            [B, *shape], in memory.

        Raises:
            IndexError: a row that does not exist.
        """
        if isinstance(rows, slice):
            return self._states[rows].to(dtype, copy=True)
        wanted = torch.as_tensor(rows, dtype=torch.int64, device="cpu")  # [B]
        return self._states.index_select(0, wanted).to(dtype)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / CACHE_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cache {path} is damaged (no readable {CACHE_MANIFEST}); delete it") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _FIELDS or manifest["format"] != FORMAT:
        raise CheckpointError(f"cache {path} is of another version of this package; delete it")
    return manifest


class _Build:
    """A cache in the making, in a folder ``<path>.partial`` that is renamed when it is whole.

    Every ten seconds the file is synced to disk, and only then a record says how many rows are in it, with their
    checksum. A later build of the same key reads the record and goes on from there. The caller holds a lock on the
    path.

    Args:
        path: the finished cache's folder.
        key: what the states are computed from.
        rows: R.
        shape: shape of one row.
    """

    def __init__(self, path: Path, key: str, rows: int, shape: tuple[int, ...]) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.header: dict[str, Any] = {"format": FORMAT, "key": key, "rows": rows, "shape": list(shape)}
        self.rows = rows
        self.shape = shape
        self.row_bytes = 2 * torch.Size(shape).numel()
        self.done = 0
        self.crc32 = 0
        self.unreadable: dict[str, str] = {}

    def run(self, compute: Callable[[int], Iterator[StateBlock]], progress: Progress | None = None) -> None:
        """Compute the rows that are missing and publish the cache.

        Raises:
            DataError: no room on the disk, or states beyond the range of float16.
        """
        self._resume()
        self._check_space()
        with (self.partial / STATES).open("ab") as file:
            try:
                self._append_all(file, compute, progress)
            except BaseException:  # Ctrl-C too: what was computed is recorded
                with suppress(DataError):
                    self._record(file)
                raise
        self._publish()

    def _append_all(
        self, file: BinaryIO, compute: Callable[[int], Iterator[StateBlock]], progress: Progress | None
    ) -> None:
        recorded = time.monotonic()
        for block in compute(self.done) if self.done < self.rows else ():
            self._append(file, block)
            if progress is not None:
                progress(self.done, self.rows)
            if time.monotonic() - recorded > _SECONDS_BETWEEN_RECORDS:
                self._record(file)
                recorded = time.monotonic()
        if self.done != self.rows:
            raise ValueError(f"compute yielded {self.done} of {self.rows} rows")
        self._record(file)

    def _resume(self) -> None:
        """Go on from the record of an earlier build, if it is of this cache and what it says is on disk."""
        try:
            record = json.loads((self.partial / _RECORD).read_text(encoding="utf-8"))
            with (self.partial / STATES).open("r+b") as file:
                file.truncate(record["done"] * self.row_bytes)
            usable = all(record[name] == value for name, value in self.header.items())
            usable = usable and _checksum(self.partial / STATES) == record["crc32"]
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if usable:
            self.done, self.crc32, self.unreadable = record["done"], record["crc32"], record["unreadable"]
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

    def _check_space(self) -> None:
        needed = (self.rows - self.done) * self.row_bytes
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise DataError(
                f"a cache of {needed / 1e6:,.0f} MB does not fit into {self.path.parent} ({free / 1e6:,.0f} MB free); "
                "free some space or choose another folder"
            )

    def _append(self, file: BinaryIO, block: StateBlock) -> None:
        states = block.states.detach().to("cpu", torch.float16).contiguous()
        if tuple(states.shape[1:]) != self.shape or self.done + len(states) > self.rows:
            raise ValueError(
                f"a block {list(states.shape)} at row {self.done} does not fit {self.rows} rows of {list(self.shape)}"
            )
        if not bool(torch.isfinite(states).all()):
            raise DataError(
                f"rows from {self.done} on have states that float16 cannot hold (beyond 65504, "
                "or not a number); train without a cache, or with another encoder"
            )
        data = states.numpy().tobytes()
        with self._naming_errors():
            file.write(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        for position, reason in enumerate(block.reasons):
            if reason:
                self.unreadable[str(self.done + position)] = reason
        self.done += len(states)

    def _record(self, file: BinaryIO) -> None:
        record = {**self.header, "done": self.done, "crc32": self.crc32, "unreadable": self.unreadable}
        with self._naming_errors():
            file.flush()
            os.fsync(file.fileno())
            write_json(self.partial / _RECORD, record, error=None)

    def _publish(self) -> None:
        manifest = {**self.header, "crc32": self.crc32, "unreadable": self.unreadable}
        with self._naming_errors():
            write_json(self.partial / CACHE_MANIFEST, manifest, error=None)
            move_folder(self.partial, self.path)
            (self.path / _RECORD).unlink()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write the cache {self.path} ({error.strerror or error}); free some space or choose a folder"
            ) from error


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while part := stream.read(_READ):
            crc = zlib.crc32(part, crc)
    return crc
