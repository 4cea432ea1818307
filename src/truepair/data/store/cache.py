"""Tables on disk, made once for a source and opened memory-mapped."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from truepair.checked import checksum, one_maker, read_checked_json, require_whole, tell, write_checked_json
from truepair.data.columns import BLOCK, IMAGES, take_rows
from truepair.data.formats.record import Reader, Skips
from truepair.data.images import describe
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_folder
from truepair.data.store.rows import write_rows
from truepair.errors import DataError
from truepair.files import clear_asides, writing_file, writing_folder

# Raise it when the meaning of the rows or of their files changes, so that older files are not read.
_VERSION = 4

_NOT_IN_KEY = ("source", "name", "split", "cache_dir")

_ROWS, _FACTS = "rows.arrow", "facts.json"


@dataclass(frozen=True)
class StoredRows:
    """The rows of a source on disk.

    Attributes:
        rows: memory-mapped.
        skipped: what was left out, as (where, why).
        split_origins: where the splits are from: some of "stated", "named" and "none".
        folder: where they lie, with what else is known of them.
    """

    rows: Dataset
    skipped: list[tuple[str, str]]
    split_origins: frozenset[str]
    folder: Path


def cached_rows(reader: Reader, config: SourceConfig) -> StoredRows:
    """Memory-map the rows of a source; read the source first if that has not been done, or if its files have changed.

    Rows that are damaged are named in a line and made again from the source: a file is mapped only after its checksum
    was compared, for Arrow believes what a file says of itself. Of several processes that want the rows of one source,
    one reads it, and the others wait.

    Raises:
        DataError: the source cannot be read, or the cache folder cannot be written.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", config.path.stem)[:40]
    key = _key(reader, config)
    folder = config.cache_folder / f"{readable}-{key}"
    try:
        return _opened(folder)
    except (OSError, ValueError):  # made or named below, where no other process makes it at the same time
        pass
    with one_maker(folder, "give cache_dir"):
        if os.path.lexists(folder):
            try:
                return _opened(folder)
            except (OSError, ValueError) as error:
                tell(f"the rows of {config.source} in {folder} are damaged ({error}), and are read again")
        _build(reader, config, folder, key)
        return _opened(folder)


def _opened(folder: Path) -> StoredRows:
    """Rows that are on disk.

    Raises:
        OSError: they are not there, or cannot be read.
        ValueError: they are damaged.
    """
    facts = read_checked_json(folder / _FACTS)
    was_read = require_whole(folder / _ROWS, facts["size"], facts["rows"])
    rows = Dataset.from_file(str(folder / _ROWS))
    if not was_read:
        rows.data.table.validate(full=True)
    empty = [name for name in ("group", "family", "names") if rows.data.column(name).null_count == len(rows)]
    skipped = [(where, why) for where, why in facts["skipped"]]
    return StoredRows(rows.remove_columns(empty), skipped, frozenset(facts["split_origins"]), folder)


def _build(reader: Reader, config: SourceConfig, folder: Path, key: str) -> None:
    """Write the files of a source; the caller holds a lock.

    Raises:
        DataError: the source cannot be read or changes meanwhile, or the folder cannot be written.
    """
    clear_asides(folder.parent, folder.name)
    try:
        with writing_folder(folder, error=None) as aside:
            rows = aside / _ROWS
            skips, origins = write_rows(reader, config, rows)
            finish_rows(rows, merge=config.repeats == "merge", skips=skips)
            facts = {"skipped": skips.entries, "split_origins": sorted(origins)}
            facts |= {"size": rows.stat().st_size, "rows": checksum(rows)}
            write_checked_json(aside / _FACTS, facts)
            if _key(reader, config) != key:
                raise DataError(f"{config.source} changed while it was read; run the command again")
    except OSError as error:
        raise DataError(
            f"{config.source} cannot be read into {folder} ({error}); check both, or give cache_dir"
        ) from None


def _key(reader: Reader, config: SourceConfig) -> str:
    options = {name: value for name, value in asdict(config).items() if name not in _NOT_IN_KEY}
    options["max_skipped"] = config.most_skipped
    stats = [(file, file.stat()) for file in reader.files]
    by_bytes = config.cache_check == "bytes"
    files = [
        (str(file.absolute()), stat.st_size, checksum(file) if by_bytes else stat.st_mtime_ns) for file, stat in stats
    ]
    # Which names speak of splits depends on where a source of files begins, and on how the user wrote that.
    of_files = reader.source_kind != "name" or config.path.is_dir()
    named = (os.path.abspath(reader.folder), split_of_folder(reader.folder)) if of_files else None  # noqa: PTH100
    kinds = [type(reader).__name__, *(["captionless"] if reader.captionless else [])]
    content = json.dumps([_VERSION, *kinds, reader.version, options, files, named], sort_keys=True)
    return hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def finish_rows(file: Path, *, merge: bool, skips: Skips) -> None:
    """Merge rows of one image if asked to, check the captions' ids, and fill in the names of each group.

    Args:
        file: Arrow stream as ``write_rows`` leaves it; rewritten in place where needed.
        merge: make one row of the rows that share an image id and a split.
        skips: takes the image files that merging leaves out.

    Raises:
        DataError: one caption id with two texts or images.
    """
    if merge:
        _rewrite(file, _merged(open_stream(file), skips))
    table = open_stream(file)
    _check_caption_ids(table)
    if table["group"].null_count < len(table) and table["names"].null_count:
        _rewrite(file, _with_names(table))


def open_stream(file: Path) -> pa.Table:
    """Memory-map an Arrow stream."""
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()


def _rewrite(file: Path, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches)
    with writing_file(file, error=None) as sink, pa.ipc.new_stream(sink, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _conflicts(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Rows whose image is not that of the first row with their image id, each with that first row."""
    rows, firsts = _repeats(table["image_id"].to_numpy())
    embedded = pc.struct_field(table["image"], "bytes").null_count < len(table)
    size = IMAGES if embedded else BLOCK
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        for position in np.flatnonzero(~_same_image(table, rows[block], firsts[block])):
            yield int(rows[start + position]), int(firsts[start + position])


def _check_caption_ids(table: pa.Table) -> None:
    ids = pc.list_flatten(table["caption_ids"]).to_numpy()
    texts = pc.list_flatten(table["captions"])
    parents = _parent_rows(table)
    image_ids = table["image_id"].to_numpy()
    again, firsts = _repeats(ids)
    same_text = np.ones(len(again), np.bool_)
    for start in range(0, len(again), BLOCK):
        block = slice(start, start + BLOCK)
        same_text[block] = pc.equal(take_rows(texts, again[block]), take_rows(texts, firsts[block])).to_numpy()
    same = same_text & (image_ids[parents[again]] == image_ids[parents[firsts]])
    if not same.all():
        wrong = int(np.flatnonzero(~same)[0])
        row, first = parents[again[wrong]], parents[firsts[wrong]]
        raise DataError(
            f"caption id {ids[again[wrong]]} stands for two captions (rows {first} and {row}, "
            f"{_image_name(table, int(first))} and {_image_name(table, int(row))}); repair it or set derive_ids"
        )


def _repeats(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions whose id occurred before, and the position of its first occurrence."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    firsts = first[inverse]
    again = np.flatnonzero(firsts != np.arange(len(ids)))
    return again, firsts[again]


def _parent_rows(table: pa.Table) -> NDArray[np.int64]:
    """Row of each caption of the flattened caption column."""
    lengths = pc.list_value_length(table["captions"]).to_numpy()
    return np.repeat(np.arange(len(table)), lengths)


def _same_image(table: pa.Table, rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether two lists of rows hold the same image, by bytes where they are embedded and by place where not."""
    left, right = take_rows(table["image"], rows), take_rows(table["image"], others)
    embedded = np.asarray(pc.is_valid(pc.struct_field(left, "bytes")), dtype=bool)
    same_place = _same_field(left, right, "path") & _same_field(left, right, "offset")
    return _same_field(left, right, "bytes") & (embedded | same_place)


def _same_field(left: pa.ChunkedArray, right: pa.ChunkedArray, name: str) -> NDArray[np.bool_]:
    """Whether a field of two columns of structs is equal; null equals null."""
    one, other = pc.struct_field(left, name), pc.struct_field(right, name)
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    return np.asarray(pc.or_(pc.fill_null(pc.equal(one, other), False), both_null), dtype=bool)


def _image_name(table: pa.Table, row: int) -> str:
    return describe(table["image"][row].as_py())


def _merged(table: pa.Table, skips: Skips) -> Iterator[pa.RecordBatch]:
    """Batches in which rows that share image id and split are one row, with the image of the first and all captions."""
    lists = ["captions", "caption_ids", "names"]
    firsts, rows, bounds = _merging(table)
    kept = np.zeros(len(table), np.bool_)
    kept[firsts] = True
    for row, first_row in _conflicts(table):
        if not kept[row]:
            why = f"it shares its image id with {_image_name(table, first_row)}: captions merged, image left out"
            skips.note(_image_name(table, row), why)
    start = done = 0
    for batch in table.to_batches():
        part = batch.filter(pa.array(kept[start : start + len(batch)]))
        start += len(batch)
        ends = bounds[done : done + len(part) + 1]
        done += len(part)
        own = rows[ends[0] : ends[-1]]  # all rows of the pictures of this part
        values = pa.table({name: take_rows(table[name], own) for name in lists}).to_pylist()
        new = [_merged_row(values[first:last]) for first, last in pairwise((ends - ends[0]).tolist())]
        for name in lists:
            column = pa.array([row[name] for row in new], part.schema.field(name).type)
            part = part.set_column(part.schema.get_field_index(name), part.schema.field(name), column)
        yield part


def _merging(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which rows share image id and split.

    Returns:
        The first row of each of G groups, ascending [G]; all rows, group after group [N]; and where each group begins
        among these, with the end after the last [G + 1].
    """
    _, ids = np.unique(table["image_id"].to_numpy(), return_inverse=True)
    splits = pc.dictionary_encode(table["split"]).combine_chunks()
    keys = ids * len(splits.dictionary) + splits.indices.to_numpy()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first[group], kind="stable")
    firsts = np.sort(first)
    return firsts, order, np.searchsorted(first[group][order], [*firsts, len(table)])


def _merged_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first of some rows with the captions and names of all."""
    for other in rows[1:]:
        _add_captions(rows[0], other)
    return rows[0]


def _add_captions(first: dict[str, Any], other: dict[str, Any]) -> None:
    known = set(first["caption_ids"])
    for text, number in zip(other["captions"], other["caption_ids"], strict=True):
        if number not in known:
            first["captions"].append(text)
            first["caption_ids"].append(number)
    if other["names"] is not None:
        first["names"] = list(dict.fromkeys([*(first["names"] or []), *other["names"]]))


def _with_names(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Batches with the missing names filled in: all captions of the row's group, over all splits."""
    names: dict[str, dict[str, None]] = {}
    for row in _iterate(table.select(["group", "captions", "names"])):
        if row["group"] is not None:
            names.setdefault(row["group"], {}).update(dict.fromkeys(row["names"] or row["captions"]))

    for batch in table.to_batches():
        position = batch.schema.get_field_index("names")
        rows = batch.select(["group", "captions", "names"]).to_pylist()
        column = pa.array([_names_of(row, names) for row in rows], batch.schema.field(position).type)
        yield batch.set_column(position, batch.schema.field(position), column)


def _names_of(row: dict[str, Any], by_group: dict[str, dict[str, None]]) -> list[str]:
    stated: list[str] = row["names"] or row["captions"]
    return stated if row["names"] is not None or row["group"] is None else list(by_group[row["group"]])


def _iterate(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()
