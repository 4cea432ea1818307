"""States of frozen encoders on disk, computed once."""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from truepair.checked import (
    UncheckedError,
    checksum,
    hash_of,
    one_maker,
    read_checked,
    read_checked_json,
    require_whole,
    tell,
    write_checked,
    write_checked_json,
)
from truepair.errors import CheckpointError, DataError
from truepair.files import discard, move_folder, one_line_errors, sync

FORMAT = 2

CACHE_MANIFEST = "manifest.json"

STATES = "states.f16"

_STAMPS = "stamps.i64"

_RECORD = "progress.json"

_FIELDS = {"format", "key", "rows", "shape", "states", "unreadable"}

_SECONDS_BETWEEN_RECORDS = 10.0

_ADVICE = "free some space, repair its permissions, or choose another folder (cache_folder)"

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


class StateBlock(NamedTuple):
    """States of B consecutive rows."""

    states: Tensor
    """[B, *shape], any floating type."""
    reasons: Sequence[str] = ()
    """Why the input of a row could not be read, empty where it could; no reasons at all if all could."""


class Inputs(NamedTuple):
    """What rows are computed from, where that may change or come back: pictures in files."""

    stamps: NDArray[np.int64]
    """A number of the input of each row as it is now, 0 where it is not there [R]."""
    compute: Callable[[NDArray[np.int64]], Iterator[StateBlock]]
    """Yields the states of some rows, int64 [S], in their order."""
    what: str = "pictures"
    """What they are, for a line."""


@dataclass(frozen=True)
class FrozenStates:
    """A row of float16 states for each of R things, on disk, memory-mapped: gathering a batch reads only its rows.

    A cache is one folder: the raw numbers, a manifest with their checksum, and where inputs may change, what they were.
    The system keeps as much of the file in memory as it has room for; nothing else is held. Rows take
    ``2 * prod(shape)`` bytes: 40 KB for an image of 4 x 4 states of width 1280, so 115 MB for 2,800 images.

    Attributes:
        path: the folder.
        key: what the states were computed from.
        shape: shape of one row, such as (N, W).
        unreadable: row number and reason, for rows whose input cannot be read; their states are of nothing.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    unreadable: dict[int, str]
    _states: Tensor = field(repr=False)  # float16 [R, *shape]

    @classmethod
    def open(cls, path: Path, key: str | None = None, unreadable: dict[int, str] | None = None) -> Self:
        """Open a finished cache.

        Up to 2 GiB all bytes are compared with their checksum; those of a larger file where it was touched since they
        were last.

        Args:
            path: its folder.
            key: what it must have been computed from; None takes any.
            unreadable: rows whose input cannot be read, where that is known better than when it was computed.

        Raises:
            CheckpointError: it is missing, damaged, or was computed from something else.
        """
        try:
            manifest = read_checked_json(path / CACHE_MANIFEST)
            if not manifest.keys() >= _FIELDS or manifest["format"] != FORMAT:
                raise CheckpointError(f"cache {path} is of another version of this package; delete it")
            if key is not None and manifest["key"] != key:
                raise CheckpointError(f"cache {path} was computed from something else; delete it")
            rows, shape = manifest["rows"], tuple(manifest["shape"])
            count = rows * math.prod(shape)
            file = path / STATES
            require_whole(file, 2 * count, manifest["states"])
        except UncheckedError as error:
            raise CheckpointError(f"cache {path} is of an earlier version of this package; delete it") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"cache {path} is damaged ({reason}); delete it") from error
        states = torch.from_file(str(file), shared=False, size=count, dtype=torch.float16) if count else torch.empty(0)
        if unreadable is None:
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
        inputs: Inputs | None = None,
    ) -> Self:
        """Open the cache of a key, or compute it first.

        An interrupted computation goes on where its last record on disk ends. A damaged cache is named in a line and
        computed again. So are, of one that is whole, the rows whose inputs have changed since, and those that could not
        be read then: that is never final. Of several processes that ask for the same cache, one computes and the others
        wait for it.

        Args:
            folder: where caches are kept; each gets a folder ``<label>-<start of key>`` in it.
            key: of everything the states depend on; see `combined_key`.
            rows: R.
            shape: shape of one row.
            compute: given the first row wanted, yields blocks of consecutive rows up to the last.
            label: start of the folder's name.
            progress: called with (rows done, rows in all) after each block.
            inputs: what the rows are computed from, where that may change under the same key.

        Raises:
            DataError: no room on the disk, or states beyond the range of float16.
        """
        path = _place(folder, label, key)
        with one_maker(path, _ADVICE):
            build = _Build(path, key, rows, tuple(shape), None if inputs is None else inputs.stamps)
            states = None
            if os.path.lexists(path):
                try:
                    states = cls.open(path, key)
                    stamps = None if inputs is None else _read_stamps(path, rows)
                except CheckpointError as error:
                    tell(f"{str(error).removesuffix('; delete it')}, and is computed again")
                    states = None
            first = rows  # the first row that this call has computed
            if states is None:
                first = build.run(compute, progress)
                states, stamps = cls.open(path, key), build.stamps
            if inputs is None or stamps is None:
                return states
            changed = np.flatnonzero((stamps != inputs.stamps) & (inputs.stamps != 0))
            if 2 * len(changed) > rows:
                tell(
                    f"{len(changed):,} of {rows:,} {inputs.what} of {path} have changed: all states are computed again"
                )
                build.run(compute, progress)
                return cls.open(path, key)
            unread = [row for row in states.unreadable if row < first]
            asked = np.union1d(np.flatnonzero(stamps != inputs.stamps), np.asarray(unread, np.int64))
            return states._with_new(asked, stamps, inputs) if len(asked) else states

    @staticmethod
    def kept(folder: Path, key: str, label: str) -> bool:
        """Whether a finished cache of a key is there, whole or not."""
        return (_place(folder, label, key) / CACHE_MANIFEST).exists()

    def _with_new(self, asked: NDArray[np.int64], stamps: NDArray[np.int64], inputs: Inputs) -> Self:
        """The states with some rows computed again; the file takes the place of the former when it is whole.

        Args:
            asked: rows, ascending, int64 [S]; what cannot be read keeps the states that it had.
            stamps: of the inputs that the states were computed from [R].
            inputs: as they are now.

        Raises:
            DataError: no room on the disk, or states beyond the range of float16.
        """
        aside, new = self.path.with_name(f".{self.path.name}.partial"), stamps.copy()
        again = set(asked.tolist())
        unreadable = {row: why for row, why in self.unreadable.items() if row not in again}
        changed = back = 0
        rows = iter(asked.tolist())
        try:
            for block in inputs.compute(asked):
                readable = []
                for place, row in zip(range(len(block.states)), rows, strict=False):
                    if block.reasons and block.reasons[place]:
                        unreadable[row] = block.reasons[place]
                    else:
                        readable.append((row, place))
                new[[row for row, _ in readable]] = inputs.stamps[[row for row, _ in readable]]
                with _naming_errors(self.path):
                    if readable and not changed + back:
                        discard(aside)
                        aside.mkdir()
                        shutil.copyfile(self.path / STATES, aside / STATES)
                    self._overwrite(aside / STATES, readable, _half(block.states))
                back += sum(row in self.unreadable for row, _ in readable)
                changed += sum(row not in self.unreadable for row, _ in readable)
            if not changed + back:
                return replace(self, unreadable=unreadable)
            # A picture that was there and is not now keeps its states: it may come back as it was.
            known = {str(row): why for row, why in unreadable.items() if row in self.unreadable}
            header = {"format": FORMAT, "key": self.key, "rows": len(self), "shape": list(self.shape)}
            with _naming_errors(self.path):
                sync(aside / STATES)
                _write_manifest(aside, header, checksum(aside / STATES), known, new)
                move_folder(aside, self.path)
        finally:
            discard(aside)
        counts = {"have changed": changed, "could not be read before": back}
        said = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        tell(f"of {len(self):,} {inputs.what} of {self.path}, {said}: they are computed again")
        return type(self).open(self.path, self.key, unreadable)

    def _overwrite(self, file: Path, rows: Sequence[tuple[int, int]], states: Tensor) -> None:
        """Write some of the states [B, *shape] into a file of all, at (row, place among the states).

        Raises:
            OSError: the disk refuses.
        """
        if rows:
            with file.open("r+b") as stream:
                for row, place in rows:
                    stream.seek(2 * row * math.prod(self.shape))
                    stream.write(states[place].numpy().tobytes())

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """States of some rows, float32 [B, *shape]."""
        return self.gather(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the place on disk, so that a worker process maps the file instead of getting a copy of it."""
        return FrozenStates.open, (self.path, self.key, self.unreadable)

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


def _place(folder: Path, label: str, key: str) -> Path:
    """Where the cache of a key is kept."""
    return folder / f"{label}-{key[:16]}"


def _write_manifest(
    folder: Path, header: dict[str, Any], digest: str, unreadable: dict[str, str], stamps: NDArray[np.int64] | None
) -> None:
    """Write what is said of the states in a folder; the manifest last."""
    if stamps is not None:
        write_checked(folder / _STAMPS, stamps.tobytes())
    write_checked_json(folder / CACHE_MANIFEST, {**header, "states": digest, "unreadable": unreadable})


def _read_stamps(folder: Path, rows: int) -> NDArray[np.int64]:
    """What the rows of a cache were computed from, int64 [rows].

    Raises:
        CheckpointError: that is missing or damaged.
    """
    try:
        stamps = np.frombuffer(read_checked(folder / _STAMPS), np.int64)
        if len(stamps) != rows:
            raise ValueError(f"{_STAMPS} is of {len(stamps):,} rows in place of {rows:,}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cache {folder} is damaged ({reason}); delete it") from error
    return stamps


def _naming_errors(path: Path) -> AbstractContextManager[None]:
    """Turn what the disk refuses into one line."""
    return one_line_errors(path, DataError, _ADVICE)


def _half(states: Tensor) -> Tensor:
    """States as they are stored, float16 on the CPU.

    Raises:
        DataError: that type cannot hold them.
    """
    half = states.detach().to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(half).all()):
        raise DataError(
            "there are states that float16 cannot hold (beyond 65504, or not a number); train without a cache, or with "
            "another encoder"
        )
    return half


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
        stamps: of the inputs as they are now [R]; None where they cannot change.

    Attributes:
        stamps: of the inputs that the states were computed from: those of rows that an earlier build computed are as
            they were then.
    """

    def __init__(
        self, path: Path, key: str, rows: int, shape: tuple[int, ...], stamps: NDArray[np.int64] | None
    ) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.header: dict[str, Any] = {"format": FORMAT, "key": key, "rows": rows, "shape": list(shape)}
        self.rows = rows
        self.shape = shape
        self.row_bytes = 2 * torch.Size(shape).numel()
        self.stamps = self._now = stamps
        self.done = 0
        self.hash = xxhash.xxh3_128()
        self.unreadable: dict[str, str] = {}

    def run(self, compute: Callable[[int], Iterator[StateBlock]], progress: Progress | None = None) -> int:
        """Compute the rows that are missing and publish the cache.

        Returns:
            The first row that was missing.

        Raises:
            DataError: no room on the disk, or states beyond the range of float16.
        """
        with _naming_errors(self.path):
            self._resume()
        self._check_space()
        first = self.done
        with (self.partial / STATES).open("ab") as file:
            try:
                self._append_all(file, compute, progress)
            except BaseException:  # Ctrl-C too: what was computed is recorded
                with suppress(DataError):
                    self._record(file)
                raise
        self._publish()
        return first

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
        """Go on from the record of an earlier build, if it is of this cache and what it says is on disk.

        Raises:
            OSError: the disk refuses.
        """
        self.done, self.hash, self.unreadable, self.stamps = 0, xxhash.xxh3_128(), {}, self._now
        try:
            record = read_checked_json(self.partial / _RECORD)
            if any(record[name] != value for name, value in self.header.items()):
                raise ValueError("it is of another cache")
            with (self.partial / STATES).open("r+b") as file:
                file.truncate(record["done"] * self.row_bytes)
            found = hash_of(self.partial / STATES)
            if found.hexdigest() != record["states"]:
                raise ValueError("it is damaged")
            then = None if self._now is None else _read_stamps(self.partial, self.rows)
        except (OSError, ValueError, CheckpointError) as error:
            if not isinstance(error, FileNotFoundError):
                tell(f"what an earlier call has computed of the cache {self.path} is of no use ({error})")
            discard(self.partial)
            self.partial.mkdir(parents=True)
        else:
            self.done, self.hash, self.unreadable = record["done"], found, record["unreadable"]
            if then is not None and self._now is not None:
                self.stamps = np.concatenate([then[: self.done], self._now[self.done :]])
        if self.stamps is not None:
            write_checked(self.partial / _STAMPS, self.stamps.tobytes())

    def _check_space(self) -> None:
        needed = (self.rows - self.done) * self.row_bytes
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise DataError(
                f"a cache of {needed / 1e6:,.0f} MB does not fit into {self.path.parent} ({free / 1e6:,.0f} MB free); "
                "free some space or choose another folder"
            )

    def _append(self, file: BinaryIO, block: StateBlock) -> None:
        states = _half(block.states)
        if tuple(states.shape[1:]) != self.shape or self.done + len(states) > self.rows:
            raise ValueError(
                f"a block {list(states.shape)} at row {self.done} does not fit {self.rows} rows of {list(self.shape)}"
            )
        data = states.numpy().tobytes()
        with _naming_errors(self.path):
            file.write(data)
        self.hash.update(data)
        for position, reason in enumerate(block.reasons):
            if reason:
                self.unreadable[str(self.done + position)] = reason
        self.done += len(states)

    def _record(self, file: BinaryIO) -> None:
        told = {"done": self.done, "states": self.hash.hexdigest(), "unreadable": self.unreadable}
        with _naming_errors(self.path):
            file.flush()
            os.fsync(file.fileno())
            write_checked_json(self.partial / _RECORD, {**self.header, **told})

    def _publish(self) -> None:
        with _naming_errors(self.path):
            _write_manifest(self.partial, self.header, self.hash.hexdigest(), self.unreadable, self.stamps)
            move_folder(self.partial, self.path)
            (self.path / _RECORD).unlink(missing_ok=True)
