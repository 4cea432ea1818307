"""Delimited text: CSV and TSV."""

import codecs
import csv
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TextIO

from truepair.data.formats.record import IMAGE_SUFFIXES, Reader, Record, Skips, extra_fields, record_of_entry
from truepair.errors import DataError

_DELIMITERS = ("\t", ",", ";", "|")

_NUMBERED = re.compile(r"(.*\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?))#\d+$", re.IGNORECASE)


class DelimitedReader(Reader):
    """Reads a line per pair. The first line names the columns, unless ``SourceConfig.columns`` does.

    Without a choice, the delimiter is the tab in ``.tsv``, and elsewhere the one of tab, comma, semicolon and bar that
    the first line has most of. Cells may be quoted, except in ``.tsv``, and except between tabs without a header line:
    that is CC3M's layout, where quotes are text. Lists such as Flickr8k's, where the image ends in the number of its
    caption (``a.jpg#0``), have no header line either. Columns image_id, caption_id, split, group and family are taken
    over; all others become text columns.
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
            if self._swallows(cells):
                skips.row(where, "a quote in it is not closed before the next lines; repair it, or give quoting false")
                continue
            entry = {name: cell for name, cell in zip(self._names, cells, strict=True) if cell}
            # A cell is no list.
            entry.pop("names", None)
            entry.pop("caption_ids", None)
            if image_name in entry:
                entry[image_name] = _NUMBERED.sub(r"\1", entry[image_name])
            yield record_of_entry(entry, where, image_name=image_name, caption_name=caption_name, extra=self.extra)

    @cached_property
    def _first_line(self) -> str:
        with self._open() as file:
            return next(self._text_lines(file), "")

    def _open(self) -> TextIO:
        """The file as text; bytes that are no UTF-8 become lone surrogates, and are found when captions are checked."""
        encoding = self.config.encoding
        if encoding is None:
            with self.config.path.open("rb") as file:
                encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        return self.config.path.open(encoding=encoding, errors="surrogateescape", newline="")

    def _text_lines(self, file: TextIO) -> Iterator[str]:
        """The lines of the file.

        Raises:
            DataError: it is not text of its encoding.
        """
        try:
            yield from file
        except UnicodeError as error:
            raise DataError(f"{self.config.path.name} is not text: {error}; give encoding") from None

    @cached_property
    def _delimiter(self) -> str:
        if self.config.delimiter is not None:
            return self.config.delimiter
        line, columns = self._first_line, self.config.columns
        if self.config.path.suffix.lower() == ".tsv" or _NUMBERED.fullmatch(line.partition("\t")[0]):
            return "\t"
        fitting = [one for one in _DELIMITERS if columns is not None and line.count(one) == len(columns) - 1]
        return max(fitting or _DELIMITERS, key=line.count)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.config.columns is not None:
            return self.config.columns
        cells = next(csv.reader([self._first_line], delimiter=self._delimiter), [])
        if self._is_numbered:
            return ("image", "caption", *(f"column {number}" for number in range(3, len(cells) + 1)))
        return tuple(cell.strip() for cell in cells)

    @cached_property
    def _columns(self) -> tuple[str, str]:
        where = f"{self.config.path.name} (give columns if it has no header line)"
        return self.pair_columns(self._names, where)

    @cached_property
    def _is_numbered(self) -> bool:
        """Whether the first line is one of a list such as Flickr8k's."""
        first = self._first_line.partition(self._delimiter)[0]
        return self.config.columns is None and _NUMBERED.fullmatch(first) is not None

    @cached_property
    def _headerless(self) -> bool:
        return self.config.columns is not None or self._is_numbered

    @cached_property
    def _quoted(self) -> bool:
        """Whether cells may be quoted."""
        if self.config.quoting is not None:
            return self.config.quoting
        return self._delimiter != "\t" or not (self._headerless or self.config.path.suffix.lower() == ".tsv")

    def _swallows(self, cells: list[str]) -> bool:
        """Whether a cell holds what looks like a line of its own: a stray quote that ran on to the next one."""
        image = self._names.index(self._columns[0])
        for cell in (cell for cell in cells if "\n" in cell or "\r" in cell):
            for line in cell.splitlines()[1:]:
                parts = line.split(self._delimiter)
                if len(parts) == len(cells) and Path(parts[image].strip('"')).suffix.lower() in IMAGE_SUFFIXES:
                    return True
        return False

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Cells of each line after the header, with its number."""
        with self._open() as file:
            reader = csv.reader(
                self._text_lines(file),
                delimiter=self._delimiter,
                quoting=csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE,
                strict=True,
            )
            try:
                for number, cells in enumerate(reader):
                    if cells and (self._headerless or number):
                        yield reader.line_num, cells
            except csv.Error as error:
                raise DataError(
                    f"{self.config.path.name} line {reader.line_num}: {error}; repair its quotes, or give "
                    "delimiter, or quoting false"
                ) from None
