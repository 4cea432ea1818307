"""What a command leaves out, cuts, merges or replaces of its data: said in the same words by all, and listed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from truepair.data.pairs import Substitution
from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.files import as_json, one_line_errors

SKIPPED = "skipped.jsonl"
"""The list in a run folder."""

What = Literal["left out", "cut", "merged", "replaced"]

_NAMED = 5  # things that are said one by one

_SHOWN = 60  # characters of a caption

_PLACE = re.compile(r"(?P<file>.+) (?:line|row|entry|image|annotation) (?P<row>\d+)(?:, (?P<part>.+))?")
"""A place as readers name it: ``pairs.jsonl line 12, caption 2``."""


@dataclass(frozen=True)
class Entry:
    """One thing.

    Attributes:
        what: became of it.
        file: where it is: a picture, or a file of the source.
        row: line or entry of the file of the source, as its reader counts; of a picture or caption the row of the pairs
            that were read, from 0; None where there is none.
        why: the reason.
    """

    what: What
    file: str
    row: int | None
    why: str


class LeftOut:
    """Says what is left out, cut, merged or replaced, a count and the first few; and lists all in a file.

    Args:
        say: prints a line.
        file: the list, JSON Lines; that of an earlier call is removed. None for no list.
        instead: what is said of a list where there is none.

    Attributes:
        summaries: the counts that were said, for a page.
    """

    def __init__(self, say: Callable[[str], None], file: Path | None = None, *, instead: str = "") -> None:
        self.say = say
        self.file = file
        self.instead = instead
        self.summaries: list[str] = []
        self._listed: set[tuple[str, int | None]] = set()
        if file is not None:
            with one_line_errors(file, DataError, "choose another place"):
                file.unlink(missing_ok=True)

    def rows(self, table: PairTable) -> None:
        """What the source of a table holds that did not become part of a row."""
        self.source(table.name, table.skipped)

    def source(self, name: str, skipped: Sequence[tuple[str, str]]) -> None:
        """What a reader left out of a source.

        Args:
            name: of the source.
            skipped: (where, why) of each thing.
        """
        if skipped:
            entries = [_of_source(where, why) for where, why in skipped]
            said = [f"{where}: {why}" for where, why in skipped]
            rows = "1 row or part of a row" if len(entries) == 1 else f"{len(entries):,} rows or parts of rows"
            self._tell("left out", f"{rows} of {name}", entries, said)

    def pictures(self, table: PairTable, unreadable: Mapping[int, str], *, most: float | None = None) -> None:
        """Pictures that cannot be read, which the caller leaves out.

        Args:
            table: the rows.
            unreadable: row -> why.
            most: the largest share that is put up with; None for any. Unless it is 0, one picture always is.

        Raises:
            DataError: there are more, or none is left.
        """
        summary = self.require_enough(table, unreadable, most)
        if summary:
            entries = _of_pictures("left out", table, unreadable)
            self._tell("left out", summary, entries, list(dict.fromkeys(unreadable.values())))

    def require_enough(self, table: PairTable, unreadable: Mapping[int, str], most: float | None) -> str:
        """Refuse to go on with too many pictures that cannot be read.

        Args:
            table: the rows.
            unreadable: row -> why.
            most: as for :meth:`pictures`.

        Returns:
            How many there are, in words; empty for none.

        Raises:
            DataError: there are more, or none is left.
        """
        if not unreadable:
            return ""
        places = table.pictures
        count, total = len(set(places[list(unreadable)].tolist())), int(places.max()) + 1
        name, first = f"{table.name} ({'+'.join(table.splits)})", next(iter(unreadable.values()))
        if count == total:
            raise DataError(f"none of the {total:,} pictures of {name} can be read; the first: {first}")
        summary = f"{count:,} of {total:,} pictures of {name} cannot be read"
        if most is not None and count > (max(1, most * total) if most else 0):
            files = dict.fromkeys(entry.file for entry in _of_pictures("left out", table, unreadable))
            raise DataError(
                f"{summary}, over the limit of {most:.1%}, such as {', '.join(islice(files, 3))}; the first: {first}; "
                "repair them, or raise "
                "data.max_bad_fraction (of truepair evaluate: max_bad_fraction)"
            )
        return summary

    def of_page(self, pictures: Sequence[tuple[PairTable, int, str]]) -> None:
        """Pictures that a page leaves out: (table, row, why) of each; those that are listed already are not again."""
        if pictures:
            entries = [entry for table, row, why in pictures for entry in _of_pictures("left out", table, {row: why})]
            said = list(dict.fromkeys(why for _, _, why in pictures))
            count = "1 picture" if len(said) == 1 else f"{len(said):,} pictures"
            new = [entry for entry in dict.fromkeys(entries) if (entry.file, entry.row) not in self._listed]
            self._tell("left out", f"{count} of the page cannot be read", new, said)

    def replaced(self, table: PairTable, substitutions: Sequence[Substitution]) -> None:
        """Training rows whose picture cannot be read, and in whose place the next readable row is trained on."""
        if substitutions:
            reasons = {one.index: one.reason for one in substitutions}
            summary = (
                f"{len(reasons):,} of {len(table):,} training pairs of {table.name} have a picture that cannot be "
                "read, and the next pair in their place"
            )
            self._tell("replaced", summary, _of_pictures("replaced", table, reasons), list(reasons.values()))

    def cut(
        self,
        name: str,
        captions: Sequence[str],
        cut: Mapping[int, int | None],
        longest: int,
        among: int | None = None,
    ) -> None:
        """Captions that lose their end.

        Args:
            name: of their table.
            captions: all that were looked at.
            cut: places of those that are longer among them -> the row that each is of, where there is one.
            longest: tokens that are read.
            among: how many there are, where only some were looked at; None for all.
        """
        if cut:
            looked_at = f" looked at, of {among:,}," if among is not None and among > len(captions) else ""
            summary = (
                f"{len(cut):,} of {len(captions):,} captions{looked_at} have more than {longest} tokens, and lose "
                "their end; shorten them, or train with a larger text.max_length"
            )
            entries = [
                Entry("cut", name, row, f"longer than {longest} tokens: {captions[place]:.{_SHOWN}}")
                for place, row in cut.items()
            ]
            self._tell("cut", summary, entries)

    def merged(self, table: PairTable, pictures: int) -> None:
        """Rows that show one picture, and are one row with all captions."""
        summary = f"{len(table):,} rows are {pictures:,} pictures; each counts once, with all its captions"
        place = f"{table.name}, {'+'.join(table.splits)}"
        self._tell("merged", f"{place}: {summary}", [Entry("merged", place, None, summary)])

    def _tell(self, what: What, summary: str, entries: Sequence[Entry], said: Sequence[str] = ()) -> None:
        """Say a count and the first few, and list all."""
        listed = self.instead if self.file is None else f"listed in {self.file}"
        line = f"{what}: {summary}"
        self.summaries.append(line)
        self.say(f"{line}; {listed}" if listed else line)
        for text in said[:_NAMED]:
            self.say(f"{what}: {text}")
        self._listed |= {(entry.file, entry.row) for entry in entries}
        if self.file is None:
            return
        with one_line_errors(self.file, DataError, "choose another place"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as opened:
                opened.writelines(as_json(vars(entry)) + "\n" for entry in entries)


def _of_source(where: str, why: str) -> Entry:
    """What a reader left out; a place that it names otherwise is the file."""
    found = _PLACE.fullmatch(where)
    if found is None:
        return Entry("left out", where, None, why)
    part = f"{found['part']}: " if found["part"] else ""
    return Entry("left out", found["file"], int(found["row"]), part + why)


def _of_pictures(what: What, table: PairTable, reasons: Mapping[int, str]) -> list[Entry]:
    """Pictures of some rows by their files; those that lie in a table, by its name."""
    paths, numbers = table.image_paths(list(reasons)), table.numbers
    return [
        Entry(what, path or table.name, int(numbers[row]), why)
        for (row, why), path in zip(reasons.items(), paths, strict=True)
    ]
