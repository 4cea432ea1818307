"""A source is read once into an Arrow file, which is memory-mapped from then on."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.data.formats.record import Reader, Skips
from truepair.data.source import SourceConfig
from truepair.data.store.paths import ImagePaths
from truepair.data.store.rows import RowMaker, row_schema
from truepair.errors import DataError

_BATCH_ROWS = 1000
_BATCH_BYTES = 32 << 20
_FIRST_PATHS = 16


def write_rows(reader: Reader, config: SourceConfig, target: Path) -> Skips:
    """Read a source and write its checked rows as an Arrow stream.

    Args:
        reader: the source.
        config: how to read it.
        target: file to write.

    Returns:
        What was left out.

    Raises:
        DataError: the source cannot be read, or too much of it had to be left out.
    """
    skips = Skips(strict=config.on_bad == "error")
    rows = _rows(reader, config, skips)
    schema = row_schema(reader.extra)
    count = 0
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in _batches(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
    _check_enough(count, skips, config)
    return skips


def _rows(reader: Reader, config: SourceConfig, skips: Skips) -> Iterator[dict[str, Any]]:
    records = reader.records(skips)
    first = list(islice(records, _FIRST_PATHS))
    stated = [(record.image_path, record.where) for record in first if record.image_path is not None]
    paths = ImagePaths(config, reader.roots, stated)
    maker = RowMaker(config, paths, skips)
    for record in chain(first, records):
        row = maker.row(record)
        if row is not None:
            yield row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists, bounded in number and in image bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["image"].get("bytes") or b"")
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_enough(count: int, skips: Skips, config: SourceConfig) -> None:
    if not count and not skips.rows:
        raise DataError(f"{config.source} holds no pairs; check the path and the format")
    if not count or skips.rows > config.max_skipped * (count + skips.rows):
        where, why = next(iter(skips.entries))
        raise DataError(
            f"{skips.rows} of {count + skips.rows} rows of {config.source} cannot be used, over max_skipped; "
            f"repair them or raise max_skipped; the first: {where}: {why}"
        )
