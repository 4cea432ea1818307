"""Rows of a table on their way to disk."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.data.formats.record import Entries, LateFieldError, Reader, Record, Skips
from truepair.data.source import SourceConfig
from truepair.data.store.making import Columns, RowMaker, is_unicode
from truepair.data.store.paths import ImagePaths
from truepair.errors import DataError

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])

_COLUMNS = [
    pa.field("image", _IMAGE),
    pa.field("image_id", pa.int64()),
    pa.field("captions", pa.list_(pa.string())),
    pa.field("caption_ids", pa.list_(pa.int64())),
    pa.field("split", pa.string()),
    pa.field("group", pa.string()),
    pa.field("family", pa.string()),
    pa.field("names", pa.list_(pa.string())),
]

# A record batch is full with so many rows, or with images of so many bytes.
_BATCH_ROWS = 1000

_BATCH_BYTES = 32 << 20

_FIRST_PATHS = 16  # images that the root is found by


def write_rows(reader: Reader, config: SourceConfig, target: Path) -> tuple[Skips, set[str]]:
    """Read a source and write its checked rows as an Arrow stream.

    Args:
        reader: the source.
        config: how to read it.
        target: file to write.

    Returns:
        What was left out, and where the splits of the rows are from.

    Raises:
        DataError: the source cannot be read, or too much of it had to be left out.
    """
    while True:
        try:
            return _write_rows(reader, config, target)
        except LateFieldError:
            continue


def _write_rows(reader: Reader, config: SourceConfig, target: Path) -> tuple[Skips, set[str]]:
    skips = Skips(strict=config.on_bad == "error")
    origins: set[str] = set()
    for name in reader.extra:
        if not is_unicode(name):
            raise DataError(f"{config.source}: the column {name!a:.80} has a name that is not UTF-8; give encoding")
    schema = pa.schema([*_COLUMNS, *(pa.field(name, pa.string()) for name in reader.extra)])
    count = 0
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in _batches(_rows(reader, config, skips, origins), schema):
            writer.write_batch(batch)
            count += len(batch)
    _check_enough(count, skips, config)
    return skips, origins


def _rows(reader: Reader, config: SourceConfig, skips: Skips, origins: set[str]) -> Iterator[dict[str, Any] | Columns]:
    """The rows: one, or some at once."""
    parts = reader.records(skips)
    first = list[Record | Entries]()
    seen = 0
    while seen < _FIRST_PATHS and (part := next(parts, None)) is not None:
        first.append(part)
        seen += len(part) if isinstance(part, Entries) else 1
    records = islice(chain.from_iterable(map(_records, first)), _FIRST_PATHS)
    stated = [(record.image_path, record.where) for record in records if record.image_path is not None]
    path = config.path  # made once: a source may have millions of rows
    named = cache(lambda file: reader.named_split(path if file is None else file))
    paths = ImagePaths(config, reader.roots, stated)
    maker = RowMaker(config, paths, skips, named, origins, captionless=reader.captionless)
    for part in chain(first, parts):
        yield from maker.made(part)
        del part  # pictures that it holds are not kept while the next ones are read


def _records(part: Record | Entries) -> Iterable[Record]:
    return [part] if isinstance(part, Record) else part.records()


def _batches(rows: Iterable[dict[str, Any] | Columns], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows in batches, bounded in number and in image bytes."""
    batch = _Batch(schema)
    for made in rows:
        if isinstance(made, Columns):
            done = 0
            while done < len(made):
                done = batch.extend(made, done)
                if batch.full:
                    yield batch.arrays()
                    batch = _Batch(schema)
        else:
            batch.append(made)
            if batch.full:
                yield batch.arrays()
                batch = _Batch(schema)
    if batch.count:
        yield batch.arrays()


class _Batch:
    """The rows of a record batch to be.

    Args:
        schema: its columns.

    Attributes:
        count: how many rows there are.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.count = 0
        self._size = 0  # bytes of the images
        # Made field by field, an image cell costs a fifth of what Arrow takes for a mapping.
        self._cells: dict[str, list[Any]] = {part.name: [] for part in _IMAGE}
        self._lists: dict[str, list[Any]] = {"captions": [], "caption_ids": []}  # of all rows, in order
        self._ends = [0]
        others = set(schema.names) - self._lists.keys() - {"image"}
        self._columns: dict[str, list[Any]] = {name: [] for name in others}

    @property
    def full(self) -> bool:
        """Whether no further row belongs to it."""
        return self.count >= _BATCH_ROWS or self._size >= _BATCH_BYTES

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        cell = row["image"]
        for name, cells in self._cells.items():
            cells.append(cell.get(name))
        for name, values in self._lists.items():
            values += row[name]
        self._ends.append(len(self._lists["captions"]))
        for name, column in self._columns.items():
            column.append(row.get(name))
        self.count += 1
        self._size += len(cell.get("bytes") or b"")

    def extend(self, rows: Columns, start: int) -> int:
        """Add rows from one on, as many as there is room for; the first that is not among them."""
        end = min(len(rows), start + _BATCH_ROWS - self.count)
        for row, image in enumerate(rows.images.get("bytes", [])[start:end], start + 1):
            self._size += len(image)
            if self.full:
                end = row
                break
        nothing = [None] * (end - start)
        for name, cells in self._cells.items():
            cells += rows.images[name][start:end] if name in rows.images else nothing
        first, last = rows.ends[start], rows.ends[end]
        moved = self._ends[-1] - first
        self._ends += [place + moved for place in rows.ends[start + 1 : end + 1]]
        self._lists["captions"] += rows.captions[first:last]
        self._lists["caption_ids"] += rows.caption_ids[first:last]
        for name, column in self._columns.items():
            column += rows.others[name][start:end] if name in rows.others else nothing
        self.count += end - start
        return end

    def arrays(self) -> pa.RecordBatch:
        """The rows as Arrow has them."""
        cells = [pa.array(self._cells[part.name], part.type) for part in _IMAGE]
        arrays = {"image": pa.StructArray.from_arrays(cells, fields=list(_IMAGE))}
        ends = pa.array(self._ends, pa.int32())
        for name, values in self._lists.items():
            kind = self.schema.field(name).type
            arrays[name] = pa.ListArray.from_arrays(ends, pa.array(values, kind.value_type), kind)
        for name, column in self._columns.items():
            arrays[name] = pa.array(column, self.schema.field(name).type)
        return pa.RecordBatch.from_arrays([arrays[name] for name in self.schema.names], schema=self.schema)


def _check_enough(count: int, skips: Skips, config: SourceConfig) -> None:
    if not count and not skips.rows:
        seen = "".join(f"; {where}: {why}" for where, why in skips.entries[:3])
        raise DataError(f"{config.source} holds no pairs; check the path and the format{seen}")
    most = config.most_skipped
    tolerated = max(1, most * (count + skips.rows)) if most else 0  # one bad row ends nothing
    if not count or skips.rows > tolerated:
        common, rows = skips.reasons.most_common(1)[0]
        where = next(where for where, why in skips.entries if why == common)
        others = "" if rows == skips.rows else f" (the reason of {rows} of them)"
        encoding = ", or give encoding" if "UTF-8" in common else ""
        raising = ", or raise max_skipped or data.max_bad_fraction" if count else ""
        raise DataError(
            f"{skips.rows} of {count + skips.rows} rows of {config.source} cannot be used, over max_skipped "
            f"({most:.1%}); repair them{raising}{encoding}; the first: {where}: {common}{others}"
        )
