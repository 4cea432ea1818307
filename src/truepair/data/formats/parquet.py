"""Parquet files, with images embedded or as paths."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.data.formats.downloads import DONE, is_list_of_downloads, note_failures, without_lists
from truepair.data.formats.record import STATED_FIELDS, Entries, Reader, Skips, SourceKind, beside, in_runs
from truepair.data.formats.shards import expand, names_of
from truepair.data.formats.trees import note_aside
from truepair.data.source import SourceConfig
from truepair.errors import DataError

_BATCH_ROWS = 256

_FEW_ROWS = 8  # of an ordinary file, however many bytes it might turn out to have

_BATCH_BYTES = 64 << 20  # of the rows that are decoded at once

_LARGEST_ROW = 1 << 30  # bytes

_PACKED = 100  # no texts and pictures have so many times the bytes that they are packed into


class ParquetReader(Reader):
    """Reads Parquet files: a file, a folder of them, or a pattern.

    The image column holds paths, bytes, or a struct of ``bytes`` and ``path``; the caption column text or lists of
    text. Columns with a table's own names are taken over; further scalar columns become text.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    source_kind: ClassVar[SourceKind] = "files"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        files = expand(config.path, ".parquet")
        self.files = (without_lists(files) or files) if config.path.is_dir() else files
        self.roots = beside(self.files[0])

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further scalar columns of the first file."""
        schema = self._open(self.files[0]).schema_arrow
        known = {*STATED_FIELDS, "image", "captions", *self._columns(self.files[0], schema)}
        return tuple(field.name for field in schema if field.name not in known and not pa.types.is_nested(field.type))

    def records(self, skips: Skips) -> Iterator[Entries]:
        """Read the rows in order.

        Raises:
            DataError: a file is not Parquet, or has no image or caption column.
        """
        return in_runs(self._entries(skips))

    def _entries(self, skips: Skips) -> Iterator[tuple[Entries, int, dict[str, Any]] | None]:
        for file, name in zip(self.files, names_of(self.files), strict=True):
            parquet = self._open(file)
            image_name, caption_name = self._columns(file, parquet.schema_arrow)
            lines = self.has_lines(caption_name)
            common = Entries(f"{name} row", image_name, caption_name, self.extra, lines, file, key=f"{name}:")
            number = -1
            status: list[str] = []  # of downloads, where img2dataset wrote the file
            for rows in _named(_rows(parquet, [image_name, caption_name, *STATED_FIELDS, *self.extra]), file):
                for entry in rows:
                    number += 1
                    if isinstance(entry.get("status"), str) and "url" in entry:
                        status.append(entry["status"])
                        if entry[image_name] is None and status[-1] != DONE:
                            continue
                    yield common, number, entry
                del rows  # pictures that these hold are not kept while the next ones are decoded
                yield None
            note_failures(name, status, skips)
        note_aside(self.config.path, ".parquet", skips)

    def _columns(self, file: Path, schema: pa.Schema) -> tuple[str, str]:
        if self.config.image_column is None and is_list_of_downloads(file):
            raise DataError(
                f"{file} lists what img2dataset downloaded, without the images; give the folder that they are in, or "
                "download them, if that has not been done"
            )
        return self.pair_columns(schema.names, file.name)

    @staticmethod
    def _open(file: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{file} is not a readable Parquet file ({reason}); fetch it again") from None


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch; bytes of texts that are not UTF-8 become lone surrogates, found when texts are checked."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        columns = {name: _values(batch.column(name)) for name in batch.schema.names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        stored = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
        return [None if text is None else text.decode("utf-8", "surrogateescape") for text in stored]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items, lengths = iter(_values(column.flatten())), column.value_lengths().to_pylist()
        return [None if length is None else list(islice(items, length)) for length in lengths]
    if pa.types.is_struct(kind):
        names, fields = [field.name for field in kind], [_values(column.field(field.name)) for field in kind]
        cells = zip(column.is_valid().to_pylist(), *fields, strict=True)
        return [dict(zip(names, cell, strict=True)) if there else None for there, *cell in cells]
    return list(column.to_pylist())


class SampleReader(ParquetReader):
    """Reads the pairs bundled with the package.

    Raises:
        DataError: the file is not there.
    """

    suffixes = ()
    source_kind = "name"

    def __init__(self, config: SourceConfig) -> None:
        Reader.__init__(self, config)  # the source is no path to be expanded
        file = Path(str(files("truepair.data") / "sample" / "emoji.parquet"))
        if not file.is_file():
            raise DataError(f"the bundled sample {file} is missing; install the package again")
        self.files = [file]
        self.roots = beside(file)

    def named_split(self, file: Path) -> str | None:
        """None: all rows state their splits."""
        return None


def _rows(parquet: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file, some at a time: as many as have a bounded number of bytes.

    A file of a few kilobytes may hold gigabytes: a long value that all rows share is stored once.
    """
    for group in range(parquet.num_row_groups):
        count = _rows_at_once(parquet.metadata.row_group(group), wanted)
        for batch in parquet.iter_batches(count, row_groups=[group], columns=wanted):
            yield _rows_of(batch)


def _rows_at_once(group: pq.RowGroupMetaData, wanted: Sequence[str]) -> int:
    """How many rows of a row group are decoded at once, as its metadata tell.

    Raises:
        DataError: not even one can be.
    """
    most = _BATCH_ROWS
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.partition(".")[0] not in wanted:
            continue
        a_row = column.total_uncompressed_size / max(group.num_rows, 1)  # bytes of a row, as they lie in the file
        shared = 0  # bytes of a value that several rows may share
        if column.has_dictionary_page:
            own = column.total_compressed_size - max(column.data_page_offset - (column.dictionary_page_offset or 0), 0)
            shared = max(column.total_uncompressed_size - own, 0)
        values = -(-column.num_values // max(group.num_rows, 1))  # of a row, where it has a list of them
        largest = max(int(2 * a_row), shared * values, 1)
        packed = column.total_uncompressed_size > _PACKED * column.total_compressed_size
        if packed and largest > _LARGEST_ROW:
            raise DataError(
                f"a row may have {largest / 1e6:,.0f} MB in column {column.path_in_schema}, packed into "
                f"{column.total_compressed_size / 1e6:,.3f} MB; shorten its values"
            )
        most = min(most, max(_BATCH_BYTES // largest, 1 if packed else _FEW_ROWS))
    return most


def _named(rows: Iterator[list[dict[str, Any]]], file: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows; what is wrong with them is said of the file.

    Raises:
        DataError: they cannot be read.
    """
    try:
        yield from rows
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{file} is not a readable Parquet file ({reason}); fetch it again") from None
