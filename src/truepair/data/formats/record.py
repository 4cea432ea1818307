"""What a format reader hands over, before it is checked."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truepair.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)


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
        split: name of the split.
        group: name of the group of images for which every caption of the group is true, or None.
        family: name of the wider group within which truth is unclear, or None.
        names: all captions known to be true of the image, or None.
        extra: further columns, as text.
    """

    where: str
    key: str
    captions: list[Any]
    image_path: str | None = None
    image: dict[str, Any] | None = None
    image_id: Any = None
    caption_ids: list[Any] | None = None
    split: str = "train"
    group: str | None = None
    family: str | None = None
    names: list[str] | None = None
    extra: dict[str, str] = field(default_factory=dict)


class Skips:
    """Rows and parts of rows that were left out of a table, with the reason for each.

    Args:
        strict: make each one an error.

    Attributes:
        entries: (where, why) of everything left out.
        rows: how many whole rows were left out.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.entries: list[tuple[str, str]] = []
        self.rows = 0

    def row(self, where: str, why: str) -> None:
        """Record that a whole row is left out.

        Raises:
            DataError: in strict mode.
        """
        self.part(where, why)
        self.rows += 1

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


def beside(file: Path) -> list[Path]:
    """Where the images of a file usually are: in its folder, or in ``images`` there."""
    return [file.parent, file.parent / "images"]


class Reader(ABC):
    """A source in one format. Making one is cheap; ``records`` does the reading.

    Attributes:
        roots: folders where relative image paths may start; the first that holds one of the first images is taken.
        files: files whose names, sizes and times decide whether a cached table is still good.
        version: whatever else decides it.
    """

    roots: list[Path]
    files: list[Path]
    version: str = ""

    @property
    def extra(self) -> tuple[str, ...]:
        """Names of further columns; all hold text."""
        return ()

    @abstractmethod
    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the rows in order.

        Args:
            skips: takes what is left out before it becomes a record.

        Raises:
            DataError: the source is not in this format.
        """
