"""Delimited text: CSV and TSV."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from truepair.data.formats.record import (
    CAPTION_NAMES,
    CAPTIONS_ELSEWHERE,
    IMAGE_NAMES,
    IMAGE_SUFFIXES,
    LABEL_NAMES,
    Entries,
    Reader,
    Skips,
    extra_fields,
    in_runs,
    usual_name,
)
from truepair.data.formats.text import open_text, text_lines
from truepair.errors import DataError

_DELIMITERS = ("\t", ",", ";", "|")

_IN_WORDS = {"\\t": "\t", "tab": "\t"}  # what a shell leaves of a tab

_OF_ENDING = {".tsv": "\t", ".tab": "\t", ".psv": "|"}

# Flickr8k's own list has one "a.jpg.1#0".
_NUMBERED = re.compile(r"(.*\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?)(?:\.\d+)?)#\d+", re.IGNORECASE | re.DOTALL)

_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)

_WHOLE = re.compile(r'"((?:[^"]|"")*)"')

_FAR_LONGER = 5  # times the mean caption: a cell with line breaks that is so long is suspected

_OPEN_QUOTE = "a quote in it is not closed before the next lines; repair it, or give quoting false"


class _Head(NamedTuple):
    """What the first line that is not blank says.

    Attributes:
        line: the line.
        number: which one it is, from 1.
        separator: the delimiter that a line such as ``sep=;`` before it states, as Excel writes it; or None.
    """

    line: str
    number: int
    separator: str | None


class DelimitedReader(Reader):
    """Reads a line per pair. The first line that is not blank names the columns, unless ``SourceConfig.columns`` does.

    Without a choice, the delimiter is the tab in ``.tsv``, and elsewhere the one of tab, comma, semicolon and bar that
    makes columns of the first line, or that it has most of. Cells may be quoted, but not in ``.tsv``, and not between
    tabs without a header line: that is CC3M's layout, where quotes are text. Between other tabs, quotes are taken off
    cells that stand in them as a whole. A first line of an image path and a text is a pair and no header; so are lists
    such as Flickr8k's, where the image ends in the number of its caption (``a.jpg#0``). Columns image_id, caption_id,
    split, group and family are taken over; all others become text columns.
    """

    suffixes = (".csv", ".tsv", ".txt", ".tab", ".psv", ".token")

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further columns."""
        entry = dict.fromkeys(self._names)
        return tuple(extra_fields(entry, *self._columns))

    def records(self, skips: Skips) -> Iterator[Entries]:
        """Read the lines in order.

        Raises:
            DataError: there is no image or caption column.
        """
        return in_runs(self._entries(skips))

    def _entries(self, skips: Skips) -> Iterator[tuple[Entries, int, dict[str, str]] | None]:
        place, (image_name, caption_name) = f"{self.config.path.name} line", self._columns
        common = Entries(place, image_name, caption_name, self.extra, lines=self.has_lines(caption_name))
        names, lengths = self._names, _Lengths()
        caption = names.index(caption_name) if caption_name in names else None
        for number, cells in self._lines():
            if isinstance(cells, _Unsplit):
                yield None
                skips.row(f"{place} {number}", cells.why, rows=cells.lines)
                continue
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()  # a spreadsheet's empty columns
            if len(cells) != len(names):
                yield None
                why = f"it has {len(cells)} cells for {len(names)} columns{self._why_cells(cells)}"
                skips.row(f"{place} {number}", why)
                continue
            text = "".join(cells)
            if "\n" in text or "\r" in text:
                if swallowed := self._swallowed(cells):
                    yield None
                    skips.row(f"{place} {number}", _OPEN_QUOTE, rows=swallowed)
                    continue
                longest = max(cells, key=len)
                lengths.broken.append((f"{place} {number}", len(longest.splitlines()), len(longest)))
            elif caption is not None:
                lengths.total += len(cells[caption])
                lengths.count += 1
            filled = zip(names, cells, strict=True)
            entry = dict(filled) if all(cells) else {name: cell for name, cell in filled if cell}
            # A cell is no list.
            entry.pop("names", None)
            entry.pop("caption_ids", None)
            if image_name in entry:
                path = entry[image_name].strip()
                numbered = _NUMBERED.fullmatch(path) if "#" in path else None
                entry[image_name] = path if numbered is None else numbered[1]
            yield common, number, entry
        yield None
        for where, why in lengths.suspects():
            skips.note(where, why)

    @cached_property
    def _head(self) -> _Head:
        separator = None
        with open_text(self.config.path, self.config.encoding, newline="") as file:
            for number, line in enumerate(text_lines(file, self.config.path), 1):
                excel = _EXCEL.fullmatch(line)
                if excel is not None:
                    separator = excel[1]
                elif line.strip():
                    return _Head(line.rstrip("\r\n"), number, separator)
        return _Head("", 1, separator)

    @cached_property
    def _delimiter(self) -> str:
        stated = (
            _IN_WORDS.get(self.config.delimiter or "", self.config.delimiter)
            or self._head.separator
            or _OF_ENDING.get(self.config.path.suffix.lower())
        )
        if stated is not None:
            return stated
        line = self._head.line
        return max(_DELIMITERS, key=lambda one: (self._makes_columns(line, one), line.count(one)))

    def _makes_columns(self, line: str, delimiter: str) -> int:
        """How well a delimiter does for the first line: 2 for the stated columns or the names of image and caption."""
        cells, columns = _cells(line, delimiter, quoted=delimiter != "\t"), self.config.columns
        if columns is not None:
            return len(cells) == len(columns) and 1 + any(map(_is_image, cells))
        if len(cells) < 2:
            return 0
        wanted, texts = self.config, LABEL_NAMES if self.config.labels else CAPTION_NAMES
        lower = {usual_name(cell) for cell in cells} | set(cells)
        if lower.intersection(_one(wanted.image_column, IMAGE_NAMES)):
            return 2 if lower.intersection(_one(wanted.caption_column, texts)) else 1
        return int(any(map(_is_image, cells)))

    @cached_property
    def _first_cells(self) -> tuple[str, ...]:
        return tuple(_cells(self._head.line, self._delimiter, quoted=self._quoted))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.config.columns is not None:
            return self.config.columns
        cells = self._first_cells
        if not self._headerless:
            return cells
        image = next(number for number, cell in enumerate(cells) if _is_image(cell))
        if len(cells) == 1:
            return ("image",)
        if len(cells) != 2 and (image or not _NUMBERED.fullmatch(cells[0])):
            raise DataError(
                f"{self.config.path.name} has no header line, and {len(cells)} columns; give columns, such as "
                "[image, caption, source]"
            )
        names = [f"column {number}" for number in range(1, len(cells) + 1)]
        names[image], names[1 - image] = "image", "caption"
        return tuple(names)

    @cached_property
    def _columns(self) -> tuple[str, str]:
        name = self.config.path.name
        if not self._head.line:
            raise DataError(f"{self.config.source} holds no pairs; it is empty")
        if len(self._names) == 1 and not self.captionless:
            if usual_name(self._names[0]) in IMAGE_NAMES:
                raise DataError(f"{name} lists pictures without captions; {CAPTIONS_ELSEWHERE}")
            shown = "tab" if self._delimiter == "\t" else self._delimiter
            raise DataError(f"{name} has no '{shown}' in its first line, {self._head.line!r:.80}; give delimiter")
        return self.pair_columns(self._names, f"{name} (give columns if it has no header line)")

    @cached_property
    def _headerless(self) -> bool:
        """Whether the first line is a pair: the user says so, or it holds the path of an image."""
        return self.config.columns is not None or any(map(_is_image, self._first_cells))

    @cached_property
    def _quoted(self) -> bool:
        """Whether quotes are part of the syntax, so that a quoted cell may hold the delimiter and line breaks."""
        return self._delimiter != "\t" if self.config.quoting is None else self.config.quoting

    @cached_property
    def _sheds_quotes(self) -> bool:
        """Whether cells that stand in quotes as a whole lose them, where quotes are no part of the syntax."""
        literal = self._quoted or self.config.quoting is not None
        return not (literal or self._headerless or self.config.path.suffix.lower() in _OF_ENDING)

    def _why_cells(self, cells: list[str]) -> str:
        """What a wrong number of cells comes from, as far as that can be told."""
        if len(cells) > len(self._names):
            text = "a text" if self._quoted else "with quoting true, a text"
            return f"; {text} that holds the delimiter must stand in quotes"
        return "" if self._quoted else "; if its cells have quotes around them, give quoting true"

    def _swallowed(self, cells: list[str]) -> int:
        """Lines of a row of which a cell holds what looks like a row of its own: a stray quote that ran on; else 0."""
        image = self._names.index(self._columns[0])
        for cell in cells:
            for line in cell.splitlines()[1:]:
                parts = line.split(self._delimiter)
                if len(parts) == len(cells) and _is_image(parts[image].strip().strip('"')):
                    return sum(len(cell.splitlines()) - 1 for cell in cells if cell) + 1
        return 0

    def _lines(self) -> Iterator[tuple[int, "list[str] | _Unsplit"]]:
        """Cells of each line after the header, with the number of the line that they begin at."""
        head, delimiter, sheds_quotes = self._head, self._delimiter, self._sheds_quotes
        with open_text(self.config.path, self.config.encoding, newline="") as file:
            reader = csv.reader(
                text_lines(file, self.config.path),
                delimiter=delimiter,
                quoting=csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE,
                skipinitialspace=_is_spaced(head.line, delimiter),
                strict=True,
            )
            while True:
                start = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    lines = reader.line_num - start + 1
                    why = f"it cannot be split into cells ({error}); repair its quotes, or give quoting false"
                    yield start, _Unsplit(why if lines == 1 else _OPEN_QUOTE, lines)
                    continue
                if cells is None:
                    return
                is_head = start < head.number or (start == head.number and not self._headerless)
                if cells and not is_head:
                    yield start, [_unquoted(cell) for cell in cells] if sheds_quotes else cells


class _Unsplit(NamedTuple):
    """Lines that cannot be split into cells.

    Attributes:
        why: the reason.
        lines: how many they are.
    """

    why: str
    lines: int


@dataclass
class _Lengths:
    """Lengths of captions, by which cells with line breaks are suspected: a stray quote may have run on.

    Attributes:
        total: characters of the captions of rows without line breaks.
        count: how many those are.
        broken: place of each row with line breaks, and lines and characters of its longest cell.
    """

    total: int = 0
    count: int = 0
    broken: list[tuple[str, int, int]] = field(default_factory=list)

    def suspects(self) -> Iterator[tuple[str, str]]:
        """Rows with a cell far longer than captions are, and what is to be said of them."""
        mean = self.total / max(self.count, 1)
        for where, lines, length in self.broken:
            if self.count and length > _FAR_LONGER * mean:
                yield (
                    where,
                    f"kept, though a cell of it has {lines} lines and {length} characters, and other captions "
                    f"{mean:.0f}: if a stray quote ran on, repair it, or give quoting false",
                )


def _cells(line: str, delimiter: str, *, quoted: bool) -> list[str]:
    """The cells of the first line, without the space and the quotes around them."""
    reader = csv.reader(
        [line],
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=_is_spaced(line, delimiter),
    )
    return [_unquoted(cell.strip()) for cell in next(reader, [])]


def _unquoted(cell: str) -> str:
    """A cell without the quotes around it, if it has some and all within are doubled."""
    whole = _WHOLE.fullmatch(cell)
    return cell if whole is None else whole[1].replace('""', '"')


def _is_spaced(line: str, delimiter: str) -> bool:
    """Whether a space follows each delimiter of a line; it is no part of the cell then, nor of the quote after it."""
    return 0 < line.count(delimiter) == line.count(f"{delimiter} ")


def _is_image(cell: str) -> bool:
    """Whether a cell is the path of an image and no name of a column."""
    return Path(cell).suffix.lower() in IMAGE_SUFFIXES or _NUMBERED.fullmatch(cell) is not None


def _one(wanted: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    return known if wanted is None else (wanted,)
