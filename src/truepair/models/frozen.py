"""States of a frozen encoder, computed once and read from a memory-mapped file from then on."""

import json
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock
from torch import Tensor

from truepair.errors import CheckpointError
from truepair.models.frozen_build import FORMAT, MANIFEST, STATES, FrozenBuild, Progress, StateBlock

_VERIFIED_BYTES = 2 << 30
_READ = 16 << 20
_FIELDS = {"format", "key", "rows", "shape", "crc32", "unreadable"}


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
            FrozenBuild(path, key, rows, tuple(shape)).run(compute, progress)
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
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cache {path} is damaged (no readable {MANIFEST}); delete it") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _FIELDS or manifest["format"] != FORMAT:
        raise CheckpointError(f"cache {path} is of another version of this package; delete it")
    return manifest


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while part := stream.read(_READ):
            crc = zlib.crc32(part, crc)
    return crc
