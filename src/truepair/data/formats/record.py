"""What every format has: a reader, which yields a record for each image with its captions."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from truepair.data.formats.shards import is_pattern
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_place, split_of_word
from truepair.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif", ".bmp",
        ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif", ".avifs",
    )
)  # fmt: skip

IMAGE_NAMES = (
    "image", "image_path", "filepath", "file_path", "file_name", "filename", "image_name", "path", "img", "jpg", "jpeg",
    "png", "webp", "image_url", "url",
)  # fmt: skip

CAPTION_NAMES = (
    "caption", "captions", "text", "texts", "txt", "sentence", "sentences", "title", "alt_text", "alt", "description",
    "comment",
)  # fmt: skip

LABEL_NAMES = ("label", "labels", "class", "class_name", "category")

_LAYOUTS = 1000  # sets of columns that a reader remembers

_AT_ONCE = 1000  # rows

CAPTIONS_ELSEWHERE = "'truepair evaluate captioning' writes some, and 'truepair embed --what images' needs none"
"""What is said of pictures without captions where these are needed."""

STATED_FIELDS = ("image_id", "caption_id", "caption_ids", "split", "group", "family", "names")
"""Fields that a row may state beside its image and its captions."""

SourceKind = Literal["path", "files", "name"]
"""What a source is: the path of one file or folder; of one file or several (a folder, a pattern); or a name."""


@dataclass(slots=True)
class Record:
    """One row of a source as it states it.

    Attributes:
        where: place in the source, for messages: "line 12".
        key: text that names the image within its source; ids are derived from it.
        captions: as found; not yet known to be text.
        image_path: path as the source writes it, to be resolved under the image root.
        image: instead of ``image_path``, a ready image cell: ``bytes``, or ``path``, ``offset`` and ``size``.
        image_id: stated id, or None.
        caption_ids: stated ids, or None.
        split: stated name of the split, or None.
        file: the file that the row is from, where the source has several.
        group: name of the group of images for which every caption of the group is true, or None.
        family: name of the wider group within which truth is unclear, or None.
        names: all captions known to be true of the image, or None.
        extra: further columns, as text.
        problem: why the row cannot be used; empty if nothing is known against it.
    """

    where: str
    key: str
    captions: list[Any]
    image_path: str | None = None
    image: dict[str, Any] | None = None
    image_id: Any = None
    caption_ids: list[Any] | None = None
    split: str | None = None
    file: Path | None = None
    group: str | None = None
    family: str | None = None
    names: list[str] | None = None
    extra: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(slots=True)
class Entries:
    """Some rows of a source that are mappings of one kind, in order: table rows of many are made at once.

    Attributes:
        place: what they are numbered as, for messages: "pairs.jsonl line".
        image_name: field of the image.
        caption_name: field of the caption or captions.
        extra: further fields to keep.
        lines: each line of a caption is one.
        file: the file that they are from, where the source has several.
        key: stands before the number of a row where its image has no path; None: such a row is named by its place.
        split: of the rows that state none; None where nothing says one.
        numbers: number of each row.
        values: the rows; see ``record_of_entry``.
    """

    place: str
    image_name: str
    caption_name: str
    extra: Sequence[str] = ()
    lines: bool = False
    file: Path | None = None
    key: str | None = None
    split: str | None = None
    numbers: list[int] = field(default_factory=list)
    values: list[Mapping[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, end: int) -> "Entries":
        """Those from one to before another."""
        return replace(self, numbers=self.numbers[start:end], values=self.values[start:end])

    def image_keys(self) -> list[str]:
        """A key of each image that has no path, see ``Record``."""
        before = f"{self.place} " if self.key is None else self.key
        return [f"{before}{number}" for number in self.numbers]

    def records(self) -> Iterator[Record]:
        """A record of each."""
        for number, key, entry in zip(self.numbers, self.image_keys(), self.values, strict=True):
            record = record_of_entry(
                entry,
                f"{self.place} {number}",
                image_name=self.image_name,
                caption_name=self.caption_name,
                key=key,
                extra=self.extra,
                lines=self.lines,
            )
            record.file = self.file
            record.split = self.split if record.split is None else record.split
            yield record


class Skips:
    """Rows and parts of rows that were left out of a table, with the reason for each.

    Args:
        strict: make each one an error.

    Attributes:
        entries: (where, why) of everything left out.
        rows: how many whole rows were left out.
        reasons: how many of them for each reason.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.entries: list[tuple[str, str]] = []
        self.rows = 0
        self.reasons: Counter[str] = Counter()

    def row(self, where: str, why: str, *, rows: int = 1) -> None:
        """Record that a whole row, or several in one, is left out.

        Raises:
            DataError: in strict mode.
        """
        self.part(where, why)
        self.rows += rows
        self.reasons[why] += rows

    def part(self, where: str, why: str) -> None:
        """Record that a part of a row, such as one of its captions, is left out.

        Raises:
            DataError: in strict mode.
        """
        if self.strict:
            raise DataError(f'{where}: {why}; repair it, or set on_bad="skip" to leave it out')
        self.note(where, why)

    def note(self, where: str, why: str) -> None:
        """Record something left out that is no fault of the data, such as a file that is no pair."""
        self.entries.append((where, why))


class LateFieldError(Exception):
    """A row has a further field that ``Reader.extra`` did not name; from now on it names all, and one begins anew."""


class Reader(ABC):
    """A source in one format. Making one is cheap; ``records`` does the reading.

    A new format is a subclass and a line in ``READERS`` of ``data/open.py``.

    Args:
        config: the source.

    Attributes:
        files: files whose names, sizes and times decide whether a cached table is still good.
        version: whatever else decides it.
        roots: folders where relative image paths may start; the first that holds one of the first images is taken.
        captionless: a picture without a caption is a row, too, with no captions; set by who opens the source.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings, in lower case, that tell this format from all others."""

    source_kind: ClassVar[SourceKind] = "path"

    version: str = ""

    captionless: bool = False

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = [config.path]
        self.roots = beside(config.path)
        self._pairs: dict[tuple[tuple[str, ...], ...], tuple[str, str]] = {}

    @property
    def extra(self) -> tuple[str, ...]:
        """Names of further columns; all hold text."""
        return ()

    @cached_property
    def folder(self) -> Path:
        """Folder that the source is, or else that it lies in, as the user wrote it."""
        path = self.config.path
        return path if path.is_dir() else next(parent for parent in path.parents if not is_pattern(parent))

    def named_split(self, file: Path) -> str | None:
        """Split that the name of a file of the source, or of a folder that it is in, speaks of."""
        return split_of_place(file.relative_to(self.folder), self.folder)

    @abstractmethod
    def records(self, skips: Skips) -> Iterator[Record | Entries]:
        """Read the rows in order, one at a time or some at once.

        Args:
            skips: takes what is left out before it becomes a record, after the rows before it were yielded.

        Raises:
            DataError: the source is not in this format.
            LateFieldError: to be read anew, see there.
        """

    def pair_columns(
        self, columns: Iterable[str], where: str, images: Iterable[str] = (), labels: Iterable[str] = ()
    ) -> tuple[str, str]:
        """Names of the columns of the image and of the captions: the user's choice, or those with a usual name.

        Args:
            columns: the columns there are.
            where: what they belong to, for the message.
            images: columns that are known to hold images.
            labels: columns that are known to hold classes, where classes are wanted.

        Returns:
            The names; that of the captions is of no column where pictures may have none, and there is none.

        Raises:
            DataError: there is no such column.
        """
        there = tuple(columns)
        key = (there, tuple(images), tuple(labels))
        if key not in self._pairs:  # a list may have millions of rows, of one layout or a few
            if len(self._pairs) >= _LAYOUTS:
                self._pairs.clear()
            self._pairs[key] = self._pair_columns(there, where, images, labels)
        return self._pairs[key]

    def _pair_columns(
        self, there: Sequence[str], where: str, images: Iterable[str], labels: Iterable[str]
    ) -> tuple[str, str]:
        texts = (*labels, *(LABEL_NAMES if self.config.labels else CAPTION_NAMES))
        image = _find_column(there, self.config.image_column, (*images, *IMAGE_NAMES), "image", where)
        if self.captionless and self.config.caption_column is None and not set(map(usual_name, there)) & set(texts):
            return image, texts[0]  # of which no row has anything
        return image, _find_column(there, self.config.caption_column, texts, "caption", where)

    def has_lines(self, caption_name: str) -> bool:
        """Whether each line of a cell of this column is a caption.

        By default of a column "txt" alone: that is what a WebDataset's text files are called, written to a table.
        """
        return self.config.caption_lines == "several" or (
            self.config.caption_lines is None and caption_name.lower() == "txt"
        )


def captions_in(text: str, config: SourceConfig) -> list[str]:
    """The captions of a text file: one a line, or all of it."""
    return [text] if config.caption_lines == "one" else lines_of(text)


def lines_of(text: str) -> list[str]:
    """The lines of a text that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


def beside(file: Path) -> list[Path]:
    """Where the images of a file usually are: in its folder, or in ``images`` there."""
    return [file.parent, file.parent / "images"]


def in_runs(rows: Iterable[tuple[Entries, int, Mapping[str, Any]] | None]) -> Iterator[Entries]:
    """Rows that come one after the other, some at once.

    Args:
        rows: what holds of a row beside its number and its fields, and these; None before something is told to
            ``Skips``, so that what becomes of the rows before it is told first.

    Raises:
        Exception: whatever ``rows`` raises, after the rows before it.
    """
    kind = run = None
    try:
        for row in rows:
            if run is not None and (row is None or row[0] is not kind or len(run.values) == _AT_ONCE):
                yield run
                run = None
            if row is not None:
                kind, number, entry = row
                if run is None:
                    run = replace(kind, numbers=[], values=[])
                run.numbers.append(number)
                run.values.append(entry)
    except Exception:
        if run is not None:
            yield run
        raise
    if run is not None:
        yield run


def record_of_entry(
    entry: Mapping[str, Any],
    where: str,
    *,
    image_name: str,
    caption_name: str,
    key: str | None = None,
    extra: Iterable[str] = (),
    lines: bool = False,
) -> Record:
    """Turn a row such as ``{"image": "a.jpg", "caption": "a dog", "image_id": 7}`` into a record.

    Args:
        entry: the row. Its image is a path, encoded bytes, or a mapping with ``bytes`` and ``path``.
        where: place of the row, for messages.
        image_name: field of the image.
        caption_name: field of the caption or captions.
        key: names the image within the source where it has no path.
        extra: further fields to keep.
        lines: each line of a caption is one.
    """
    image, captions = entry.get(image_name), entry.get(caption_name)
    path, cell = image_of(image)
    if lines and isinstance(captions, str):
        captions = lines_of(captions)
    record = Record(
        where=where,
        key=path or key or where,
        image_path=path,
        image=cell,
        captions=captions if isinstance(captions, list) else [captions],
        extra={name: as_text(entry[name]) for name in extra if entry.get(name) is not None},
    )
    state_fields(record, entry)
    return record


def state_fields(record: Record, entry: Mapping[str, Any]) -> None:
    """Take over what a row states beside image and captions: ids, split and known truth."""
    stated = {name: entry[name] for name in STATED_FIELDS if name in entry and not is_missing(entry[name])}
    for name in ("caption_ids", "names"):
        if name in stated and not isinstance(stated[name], list):
            record.problem = f"its {name} is not a list but {stated[name]!r:.80}"
            return
    record.image_id = stated.get("image_id")
    record.caption_ids = [stated["caption_id"]] if "caption_id" in stated else stated.get("caption_ids")
    record.names = stated.get("names")
    record.split = split_of_word(as_text(stated["split"])) if "split" in stated else None
    record.group = as_text(stated["group"]) if "group" in stated else None
    record.family = as_text(stated["family"]) if "family" in stated else None


def is_missing(value: Any) -> bool:
    """Whether a cell states nothing; tables of numbers write NaN for that."""
    return value is None or (isinstance(value, float) and value != value)  # what NaN alone does


def extra_fields(entry: Mapping[str, Any], image_name: str, caption_name: str) -> list[str]:
    """Names of the fields that a table has no column for, as far as they hold scalars."""
    known = {*STATED_FIELDS, "image", "captions", image_name, caption_name}
    return [name for name, value in entry.items() if name not in known and not isinstance(value, list | dict)]


def as_text(value: Any) -> str:
    """A scalar as text: strings as they are, the rest as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def usual_name(column: str) -> str:
    """How a column would usually be written: "Image Path" as "image_path"."""
    return column.lower().replace(" ", "_").replace("-", "_")


def _find_column(there: Sequence[str], wanted: str | None, known: tuple[str, ...], what: str, where: str) -> str:
    """The wanted column, or else the first of the known names that is there, as "Image Path" is ``image_path``."""
    by_lower = {usual_name(name): name for name in reversed(there)}
    if wanted is not None and wanted in there:
        return wanted
    if wanted is None:
        for name in known:
            if name in by_lower:
                return by_lower[name]
    looked = wanted if wanted is not None else ", ".join(known)
    raise DataError(f"{where} has no {what} column ({looked}); it has {', '.join(there)}: name one with {what}_column")


def image_of(value: Any) -> tuple[str | None, dict[str, Any] | None]:
    """What a row states as its image: a path to resolve, or an image cell with bytes; or neither."""
    if isinstance(value, str):
        return value or None, None
    if isinstance(value, bytes):
        return None, {"bytes": value}
    if isinstance(value, Mapping):
        path = value.get("path") if isinstance(value.get("path"), str) else None
        if isinstance(value.get("bytes"), bytes):
            return None, {"bytes": value["bytes"], "path": path}
        return path or None, None
    return None, None
