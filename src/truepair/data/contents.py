"""What lies behind the pictures of a table: which files are there, and which of them are the same."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from truepair.checked import read_checked, tell, write_checked
from truepair.errors import ConfigError

IDENTITIES = ("bytes", "file", "id")
"""What makes two rows show one picture, each with all that stand behind it; see ``DataConfig.identity``."""

_SMALL = 64 << 10  # bytes; larger pictures are hashed as a whole only where their beginning, middle and end are equal

_PIECE = 16 << 10  # bytes of each of these

_BLOCK = 1 << 20  # bytes read at once of a picture that is hashed as a whole

_AT_ONCE = 256  # pictures a thread reads before it is asked again

_THREADS = 8  # they wait for disks, not for processors

_LISTED = 1 << 16  # paths that are Python's at once

_FIELDS = {"bytes": pa.binary(), "path": pa.string(), "offset": pa.int64(), "size": pa.int64()}
"""Fields of an image cell."""

_UNREAD = 0  # stands for a hash that is not known

_REMEMBERED = ("size", "time", "sketch", "whole")
"""What is kept of each stored picture, int64, one after the other."""


@dataclass(frozen=True)
class Contents:
    """The stored pictures of N rows: P distinct places of files, and one for each embedded picture.

    Attributes:
        number: which of the stored pictures each row shows, int64 [N].
        file: a number of the file behind each, int64 [P]: equal for two paths that lead to one file; 0 for an embedded
            picture. Of a file that is not there, of its path.
        there: whether the file is there, bool [P]; embedded pictures are.
        sketch: hash of size, beginning, middle and end of its bytes, int64 [P]; 0 if they were not read.
        whole: hash of all its bytes, int64 [P]; 0 if it was not needed, since no other has the sketch.
        identity: one of ``IDENTITIES``.
    """

    number: NDArray[np.int64]  # [N]
    file: NDArray[np.int64]  # [P]
    there: NDArray[np.bool_]  # [P]
    sketch: NDArray[np.int64]  # [P]
    whole: NDArray[np.int64]  # [P]
    identity: str = "bytes"

    @classmethod
    def of_images(cls, images: pa.ChunkedArray, identity: str = "bytes", memory: Path | None = None) -> Self:
        """Look at the files behind image cells; none is decoded.

        A file is read only for ``bytes``, and not again as long as its size and time stay as they are.

        Args:
            images: the cells [N], with ``bytes``, ``path``, ``offset`` and ``size``.
            identity: one of ``IDENTITIES``.
            memory: file that keeps the hashes; made if it is not there. None: they are not kept.

        Raises:
            ConfigError: there is no such identity.
        """
        check_identity(identity)
        number, first = _stored_pictures(images)
        cells = _cells(images, first)
        file, there, size, time = _stat(cells)
        nothing = np.zeros(len(first), np.int64)
        found = cls(number, file, there, nothing, nothing, identity)
        if identity != "bytes":
            return found
        kept = None if memory is None else _recalled(memory, size, time)
        sketch, whole = kept if kept is not None else (nothing.copy(), nothing.copy())
        unread = np.flatnonzero(there & (sketch == _UNREAD) & (size > 0))
        sketch[unread] = _hashed(cells, unread, size, whole=False)
        small = (sketch != _UNREAD) & (size <= _SMALL)
        whole[small] = sketch[small]
        settled = replace(found, sketch=sketch, whole=whole)._settled(cells, size)
        if memory is not None and (len(unread) or kept is None or not np.array_equal(settled.whole, kept[1])):
            _remember(memory, size, time, settled)
        return settled

    @classmethod
    def of_places(cls, images: pa.ChunkedArray) -> Self:
        """What the cells themselves say: the same path is the same file. No file is looked at."""
        number, first = _stored_pictures(images)
        cells = _cells(images, first)
        nothing = np.zeros(len(first), np.int64)
        return cls(number, _of_places(cells), np.ones(len(first), np.bool_), nothing, nothing, "file")

    @classmethod
    def concat(cls, parts: "list[Contents]", images: pa.ChunkedArray) -> "Contents":
        """Those of several tables as one; what only two of them together make a question of is read.

        Args:
            parts: at least one.
            images: the cells of all rows [N].
        """
        starts = np.cumsum([0, *(len(part.file) for part in parts)])
        file, there, sketch, whole = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("file", "there", "sketch", "whole")
        )
        number = np.concatenate([part.number + start for part, start in zip(parts, starts, strict=False)])
        identity = min((part.identity for part in parts), key=IDENTITIES.index)
        joined = cls(number, file, there, sketch, whole, identity)
        if not len(joined._open()):
            return joined
        _, first = np.unique(joined.number, return_index=True)
        cells = _cells(images, first)
        return joined._settled(cells, _stat(cells)[2])

    def take(self, rows: NDArray[np.int64]) -> "Contents":
        """Those of some of the rows, in this order."""
        return replace(self, number=self.number[rows])

    @cached_property
    def content(self) -> NDArray[np.int64]:
        """A number of the bytes of each stored picture, int64 [P]: equal for equal bytes, 0 where they are unknown."""
        mixed = self.sketch.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self.whole.view(np.uint64)
        return np.where(self.sketch == _UNREAD, _UNREAD, (mixed | np.uint64(1)).view(np.int64))

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """A number of the picture that each stored one shows, ids left aside, int64 [P]: by its file and its bytes."""
        count = len(self.file)
        keys = [] if self.identity == "id" else [self.file, self.content]
        return _joined(count, keys)

    def pictures(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number of the picture of each row, int64 [N]: rows share it by id, by file or by bytes, or over others.

        Args:
            ids: image id of each row, int64 [N].
        """
        distinct, of_row = np.unique(ids, return_inverse=True)
        shown = self.shown[self.number]
        if self.identity == "id":
            return of_row.astype(np.int64)
        # Ids and what is shown are the two sides of a graph, rows are its edges.
        edges = np.unique(of_row * (shown.max(initial=-1) + 1) + shown)
        if len(edges) == len(distinct) == shown.max(initial=-1) + 1:
            return of_row.astype(np.int64)
        groups = int(shown.max(initial=-1)) + 1
        one, other = edges // groups, edges % groups + len(distinct)
        nodes = len(distinct) + groups
        graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(nodes, nodes))
        _, labels = connected_components(graph, directed=False)
        return np.asarray(labels[of_row], np.int64)

    def _open(self) -> NDArray[np.int64]:
        """Stored pictures whose sketch another file has as well, while their bytes are not known as a whole."""
        read = np.flatnonzero(self.sketch != _UNREAD)
        things = np.unique(np.stack([self.sketch[read], np.where(self.file[read], self.file[read], -read - 1)]), axis=1)
        sketches, counts = np.unique(things[0], return_counts=True)
        repeated = np.isin(self.sketch, sketches[counts > 1])
        return np.flatnonzero(repeated & (self.whole == _UNREAD) & self.there)

    def _settled(self, cells: pa.Table, size: NDArray[np.int64]) -> Self:
        """The same, with the hash of the whole picture wherever the sketch leaves a question open."""
        asked = self._open()
        if not len(asked):
            return self
        whole = self.whole.copy()
        whole[asked] = _hashed(cells, asked, size, whole=True)
        return replace(self, whole=whole)


def picture_stamps(
    images: pa.ChunkedArray, rows: NDArray[np.int64], content: NDArray[np.int64], check: str
) -> NDArray[np.int64]:
    """A number of each of some pictures as it lies there now, int64 [R]; another number, another picture.

    Folders are no part of it, so that it stays when a data set is moved.

    Args:
        images: image cells [N].
        rows: which of them are asked about, each once, int64 [R].
        content: what is known of their bytes, see ``Contents.content``, int64 [R].
        check: by "times", of name, place in an archive, size and time of change, or of the bytes of a picture that the
            table holds; by "bytes", of all bytes, which are read.

    Returns:
        Their numbers, 0 for a picture that is not there.
    """
    order = np.argsort(rows)
    cells = _cells(images, rows[order])
    _, there, size, time = _stat(cells)
    if check == "bytes":
        hashes = _hashed(cells, np.flatnonzero(there), size, whole=True)
        told = np.zeros(len(rows), np.int64)
        told[there] = hashes
        stamps = np.where(told == _UNREAD, 0, _mixed(size, told))
    else:
        embedded = pc.is_valid(cells["bytes"]).to_numpy()
        told = np.where(embedded, content[order], _names(cells))
        unknown = np.flatnonzero(embedded & (told == _UNREAD))
        told[unknown] = _hashed(cells, unknown, size, whole=False)
        stamps = np.where(there, _mixed(size, time, told), 0)
    found = np.empty_like(stamps)
    found[order] = stamps
    return found


def check_identity(identity: str) -> None:
    """Raise a ``ConfigError`` unless it is one of ``IDENTITIES``."""
    if identity not in IDENTITIES:
        raise ConfigError(f"identity is '{identity}'; give {', '.join(IDENTITIES[:-1])} or {IDENTITIES[-1]}")


def _joined(count: int, keys: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Numbers from 0 of what hangs together by one of several keys, 0 for none, int64 [count]."""
    ones, others, nodes = [np.empty(0, np.int64)], [np.empty(0, np.int64)], count
    for key in keys:
        known = np.flatnonzero(key)
        _, number = np.unique(key[known], return_inverse=True)
        ones.append(known)
        others.append(number + nodes)
        nodes += int(number.max(initial=-1)) + 1
    one, other = np.concatenate(ones), np.concatenate(others)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(nodes, nodes))
    _, labels = connected_components(graph, directed=False)
    _, numbers = np.unique(labels[:count], return_inverse=True)
    return np.asarray(numbers, np.int64)


def _stored_pictures(images: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the stored picture of each row [N], and the first row of each [P], ascending."""
    count = len(images)
    embedded = pc.is_valid(_field(images, "bytes")).to_numpy()
    offset = pc.fill_null(pc.cast(_field(images, "offset"), pa.string()), "")
    places = _encoded(pc.binary_join_element_wise(_field(images, "path"), offset, "#"))
    key = np.arange(count) + count  # embedded pictures, and rows without any
    named = pc.is_valid(places.indices).to_numpy(zero_copy_only=False) & ~embedded
    key[named] = pc.fill_null(places.indices, 0).to_numpy()[named]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse].astype(np.int64), first[order].astype(np.int64)


def _cells(images: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.Table:
    """Some image cells, by ascending rows, as a table of their fields; embedded bytes are not copied."""
    parts, start = [], 0
    for chunk in images.chunks:
        first, last = np.searchsorted(rows, [start, start + len(chunk)])
        if last - first == len(chunk):
            parts.append(chunk)
        elif last > first:
            parts.append(chunk.take(pa.array(rows[first:last] - start)))
        start += len(chunk)
    chosen = pa.chunked_array(parts, images.type)
    return pa.table({name: _field(chosen, name) for name in _FIELDS})


def _field(images: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A field of image cells; null where the cells have none of that name."""
    if images.type.get_field_index(name) < 0:
        return pa.chunked_array([pa.nulls(len(images), _FIELDS[name])])
    return pc.cast(pc.struct_field(images, name), _FIELDS[name]) if name != "bytes" else pc.struct_field(images, name)


def _encoded(texts: pa.ChunkedArray) -> pa.DictionaryArray:
    """Texts by number; put together first, since Arrow gives each chunk the whole dictionary."""
    return pc.dictionary_encode(pc.cast(texts, pa.large_string()).combine_chunks())


def _stat(
    cells: pa.Table,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Number of each file, whether it is there, size of the picture, and time of the file in ns [P] each."""
    count = len(cells)
    file, there = _of_places(cells), np.ones(count, np.bool_)
    size, time = np.zeros(count, np.int64), np.zeros(count, np.int64)
    embedded = pc.is_valid(cells["bytes"]).to_numpy()
    size[embedded] = pc.binary_length(cells["bytes"].filter(pa.array(embedded))).to_numpy()
    paths = _encoded(cells["path"].filter(pa.array(~embedded)))
    facts = np.empty((len(paths.dictionary), 5), np.int64)
    for start in range(0, len(facts), _LISTED):
        facts[start : start + _LISTED] = [
            _facts(path) for path in paths.dictionary[start : start + _LISTED].to_pylist()
        ]
    rows = np.flatnonzero(~embedded)
    named = pc.is_valid(paths.indices).to_numpy(zero_copy_only=False)
    there[rows[~named]] = False
    rows, of_row = rows[named], pc.fill_null(paths.indices, 0).to_numpy()[named]
    device, inode, size[rows], time[rows], found = facts[of_row].T
    there[rows] = found > 0
    offset = pc.fill_null(cells["offset"].filter(pa.array(~embedded)), -1).to_numpy()[named]
    member = offset >= 0
    size[rows[member]] = cells["size"].filter(pa.array(~embedded)).to_numpy()[named][member]
    known = inode != 0  # some file systems number nothing
    mixed = [device[known], inode[known], offset[known]]
    file[rows[known]] = _mixed(*mixed)
    return file, there, size, time


def _facts(path: str) -> tuple[int, int, int, int, int]:
    """Device, inode, size and time of a file, links followed, and 1; or zeros."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a source may have millions of rows
    except (OSError, ValueError):
        return 0, 0, 0, 0, 0
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its writer
        return 0, 0, 0, 0, 0
    return found.st_dev & (2**62 - 1), found.st_ino & (2**62 - 1), found.st_size, found.st_mtime_ns, 1


def _of_places(cells: pa.Table) -> NDArray[np.int64]:
    """A number of the path and the offset of each cell, int64 [P]; 0 without a path, and for embedded bytes."""
    found = np.zeros(len(cells), np.int64)
    for start in range(0, len(cells), _LISTED):
        part = cells.slice(start, _LISTED)
        paths = zip(part["path"].to_pylist(), part["offset"].to_pylist(), strict=True)
        found[start : start + _LISTED] = [
            0 if path is None else _signed(xxhash.xxh3_64_intdigest(f"{path}#{at}".encode())) for path, at in paths
        ]
    found[pc.is_valid(cells["bytes"]).to_numpy()] = 0
    return found


def _names(cells: pa.Table) -> NDArray[np.int64]:
    """A number of the file's name and the offset of each cell, int64 [P]; 0 without a path."""
    found = np.zeros(len(cells), np.int64)
    for start in range(0, len(cells), _LISTED):
        part = cells.slice(start, _LISTED)
        places = zip(part["path"].to_pylist(), part["offset"].to_pylist(), strict=True)
        found[start : start + _LISTED] = [
            0 if path is None else _signed(xxhash.xxh3_64_intdigest(f"{path.rpartition(os.sep)[2]}#{at}".encode()))
            for path, at in places
        ]
    return found


def _mixed(*numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """A hash of several numbers, int64 [M]; never 0."""
    mixed = np.zeros(len(numbers[0]), np.uint64)
    for number in numbers:
        mixed = (mixed ^ number.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.asarray(mixed | np.uint64(1 << 63)).view(np.int64)


def _signed(number: int) -> int:
    """A 64-bit hash as a positive int64, never 0."""
    return (number >> 1) or 1


def _hashed(cells: pa.Table, which: NDArray[np.int64], size: NDArray[np.int64], *, whole: bool) -> NDArray[np.int64]:
    """Hashes of some stored pictures [M], 0 for those that cannot be read."""
    if not len(which):
        return np.empty(0, np.int64)
    paths = pc.cast(cells["path"], pa.large_string()).combine_chunks()

    def hash_part(part: NDArray[np.int64]) -> list[int]:
        """The hashes of some pictures; several lie in one tar, which is opened once."""
        hashes, opened, descriptor = list[int](), None, -1
        offsets = cells["offset"].take(pa.array(part)).to_pylist()
        places = zip(part.tolist(), paths.take(pa.array(part)).to_pylist(), offsets, size[part].tolist(), strict=True)
        try:
            for row, path, offset, length in places:
                embedded = cells["bytes"][row]
                if embedded.is_valid:
                    hashes.append(_hash_bytes(memoryview(embedded.as_buffer()), whole))
                    continue
                try:
                    if path != opened:
                        if opened is not None:
                            os.close(descriptor)
                        opened = None
                        descriptor, opened = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), path
                    hashes.append(_hash_file(descriptor, offset or 0, length, whole))
                except OSError:  # who reads the picture says so
                    hashes.append(_UNREAD)
        finally:
            if opened is not None:
                os.close(descriptor)
        return hashes

    parts = [which[start : start + _AT_ONCE] for start in range(0, len(which), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.array([number for found in pool.map(hash_part, parts) for number in found], np.int64)


def _hash_bytes(data: memoryview, whole: bool) -> int:
    if whole or len(data) <= _SMALL:
        return _signed(xxhash.xxh3_64_intdigest(data, seed=len(data)))
    state = xxhash.xxh3_64(seed=len(data))
    for start, length in _pieces(len(data)):
        state.update(data[start : start + length])
    return _signed(state.intdigest())


def _hash_file(descriptor: int, offset: int, size: int, whole: bool) -> int:
    state = xxhash.xxh3_64(seed=size)
    blocks = [(start, _BLOCK) for start in range(0, size, _BLOCK)] if whole or size <= _SMALL else _pieces(size)
    for start, length in blocks:
        state.update(_read_at(descriptor, min(length, size - start), offset + start))
    return _signed(state.intdigest())


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    """Beginning, middle and end, as (start, length)."""
    for start in (0, (size - _PIECE) // 2, size - _PIECE):
        yield start, _PIECE


def _read_at(descriptor: int, length: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, length)


def _recalled(
    memory: Path, size: NDArray[np.int64], time: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Sketches and whole hashes that were kept [P], 0 for files that have changed; None if there are none."""
    try:
        kept = np.frombuffer(read_checked(memory), np.int64).reshape(len(_REMEMBERED), -1).copy()  # [4, P]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        tell(f"the hashes of pictures in {memory} are damaged ({error}), and are made again")
        return None
    kept_size, kept_time, sketch, whole = kept
    if len(kept_size) != len(size):
        return None
    same = (kept_size == size) & (kept_time == time)
    return sketch * same, whole * same


def _remember(memory: Path, size: NDArray[np.int64], time: NDArray[np.int64], found: Contents) -> None:
    with suppress(OSError):  # a cache that others own: the pictures are read again next time
        write_checked(memory, np.stack([size, time, found.sketch, found.whole]).tobytes())
