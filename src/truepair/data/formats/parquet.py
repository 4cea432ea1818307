"""Parquet files, with images embedded or as paths."""

from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.data.formats.downloads import DONE, is_list_of_downloads, note_failures, without_lists
from truepair.data.formats.record import STATED_FIELDS, Reader, Record, Skips, SourceKind, beside, record_of_entry
from truepair.data.formats.shards import expand, names_of
from truepair.data.formats.trees import note_aside
from truepair.data.source import SourceConfig
from truepair.errors import DataError

_BATCH_ROWS = 256


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

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the rows in order.

        Raises:
            DataError: a file is not Parquet, or has no image or caption column.
        """
        for file, name in zip(self.files, names_of(self.files), strict=True):
            parquet = self._open(file)
            image_name, caption_name = self._columns(file, parquet.schema_arrow)
            wanted = [image_name, caption_name, *STATED_FIELDS, *self.extra]
            rows = _rows(parquet, file, wanted)
            status: list[str] = []  # of downloads, where img2dataset wrote the file
            for number, entry in enumerate(rows):
                if isinstance(entry.get("status"), str) and "url" in entry:
                    status.append(entry["status"])
                    if entry[image_name] is None and status[-1] != DONE:
                        continue
                record = record_of_entry(
                    entry,
                    f"{name} row {number}",
                    image_name=image_name,
                    caption_name=caption_name,
                    key=f"{name}:{number}",
                    extra=self.extra,
                    lines=self.has_lines(caption_name),
                )
                record.file = file
                yield record
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


def _rows(parquet: pq.ParquetFile, file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: it is damaged.
    """
    batches = parquet.iter_batches(_BATCH_ROWS, columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file} is damaged ({reason:.120}); fetch it again") from None
        if batch is None:
            return
        yield from batch.to_pylist()


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
