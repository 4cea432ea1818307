"""Delimited text: CSV and TSV."""

import csv
from collections.abc import Iterator
from functools import cached_property

from truepair.data.formats.record import Reader, Record, Skips, extra_fields, record_of_entry
from truepair.errors import DataError

_DELIMITERS = ("\t", ",", ";", "|")


class DelimitedReader(Reader):
    """Reads a line per pair. The first line names the columns, unless ``SourceConfig.columns`` does.

    Without a choice, the delimiter is the one of tab, comma, semicolon and bar that the first line has most of. Cells
    may be quoted, except in a tab-separated file without a header line: that is CC3M's layout, where quotes are text.
    Columns image_id, caption_id, split, group and family are taken over; all others become text columns.
    """

    suffixes = (".csv", ".tsv", ".txt")

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further columns."""
        entry = dict.fromkeys(self._names)
        return tuple(extra_fields(entry, *self._columns))

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the lines in order.

        Raises:
            DataError: there is no image or caption column, or the quotes do not match.
        """
        image_name, caption_name = self._columns
        for number, cells in self._lines():
            where = f"{self.config.path.name} line {number}"
            if len(cells) != len(self._names):
                skips.row(where, f"it has {len(cells)} cells for {len(self._names)} columns")
                continue
            entry = {name: cell for name, cell in zip(self._names, cells, strict=True) if cell}
            # A cell is no list.
            entry.pop("names", None)
            entry.pop("caption_ids", None)
            yield record_of_entry(entry, where, image_name=image_name, caption_name=caption_name, extra=self.extra)

    @cached_property
    def _first_line(self) -> str:
        with self.config.path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.readline()

    @cached_property
    def _delimiter(self) -> str:
        if self.config.delimiter is not None:
            return self.config.delimiter
        return max(_DELIMITERS, key=self._first_line.count)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.config.columns is not None:
            return self.config.columns
        cells = next(csv.reader([self._first_line], delimiter=self._delimiter), [])
        return tuple(cell.strip() for cell in cells)

    @cached_property
    def _columns(self) -> tuple[str, str]:
        where = f"{self.config.path.name} (give columns if it has no header line)"
        return self.pair_columns(self._names, where)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Cells of each line after the header, with its number."""
        headerless = self.config.columns is not None
        unquoted = headerless and self._delimiter == "\t"
        # Bytes that are not UTF-8 become lone surrogates, and are found when captions are checked.
        with self.config.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(
                file,
                delimiter=self._delimiter,
                quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
                strict=True,
            )
            try:
                for number, cells in enumerate(reader):
                    if cells and (headerless or number):
                        yield reader.line_num, cells
            except csv.Error as error:
                raise DataError(
                    f"{self.config.path.name} line {reader.line_num}: {error}; repair its quotes, or give delimiter"
                ) from None
