"""JSON files of any size: the entries of their long lists one at a time, so that no more than a few are in memory."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from truepair.data.formats.text import open_text
from truepair.errors import DataError

_CHUNK = 1 << 22  # characters read at once

_SPACE = re.compile(r"[ \t\n\r]*")

_DECODER = json.JSONDecoder()


def is_json_list(path: Path, encoding: str | None = None) -> bool:
    """Whether a JSON file holds a list, by its first character.

    Raises:
        DataError: it is not text of its encoding.
    """
    try:
        with open_text(path, encoding) as file:
            return _Window(file).character() == "["
    except UnicodeError as error:
        raise DataError(f"{path.name} is not text: {error}; give encoding") from None


def list_entries(path: Path, encoding: str | None = None) -> Iterator[Any]:
    """The entries of a file that holds one JSON list.

    Bytes that are not UTF-8 become lone surrogates, and are found when captions are checked.

    Raises:
        DataError: the file is not JSON, or no list.
    """
    with open_text(path, encoding) as file:
        window = _Window(file)
        try:
            yield from window.entries()
            window.end()
        except (ValueError, RecursionError) as error:
            raise _not_json(path, window, error) from None


def member_entries(
    path: Path, names: Collection[str], encoding: str | None = None, *, optional: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """The entries of the lists that a JSON object holds under some names, each with its name, in the file's order.

    Args:
        path: the file.
        names: of the lists.
        encoding: of the file.
        optional: those of them that need not be there.

    Raises:
        DataError: the file is not JSON; or another name is missing, stands there twice, or names no list.
    """
    seen = list[str]()
    with open_text(path, encoding) as file:
        window = _Window(file)
        try:
            if window.character() != "{":
                window.value()
                window.end()
                raise _no_list(next(iter(names)), path)
            for name in window.members():
                if name not in names:
                    window.value()
                    continue
                seen.append(name)
                if window.character() != "[":
                    raise _no_list(name, path)
                for entry in window.entries():
                    yield name, entry
            window.end()
        except (ValueError, RecursionError) as error:
            raise _not_json(path, window, error) from None
    for name in names:
        if name not in seen and name not in optional:
            raise _no_list(name, path)
        if seen.count(name) > 1:
            raise DataError(f"{path} has '{name}' {seen.count(name)} times; leave one")


class _Window:
    """The part of a JSON text that is looked at; it moves on as values are taken.

    All that takes something raises JSONDecodeError where the text does not go on as JSON does.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.at = 0
        self.before = 0  # characters of the file before the window
        self.lines = 0  # line ends among them
        self.line_start = 0  # in characters of the file, of the line that the window begins in
        self.ended = False

    def character(self) -> str:
        """The next character that is no space; an empty string at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr] # it fits any text
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._move(_CHUNK)

    def value(self) -> Any:
        """Take the next value."""
        size = _CHUNK
        self.character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                goes_on = self.text[end : end + 1] in ("", ".", "e", "E")  # maybe, if it is a number: "1." of "1.5"
                if not goes_on or self.ended:
                    self.at = end
                    return value
            except json.JSONDecodeError:
                if self.ended:
                    raise
            self._move(size)
            size *= 2  # a long value is tried again a few times only

    def entries(self) -> Iterator[Any]:
        """Take a list, entry by entry."""
        self._take("[", "Expecting a list")
        if self.character() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.character() == "]":
                self.at += 1
                return
            self._take(",", "Expecting ',' delimiter")

    def members(self) -> Iterator[str]:
        """Take an object, name by name; whoever asks takes the value after each."""
        self._take("{", "Expecting an object")
        if self.character() == "}":
            self.at += 1
            return
        while True:
            if self.character() != '"':
                raise self._unexpected("Expecting property name enclosed in double quotes")
            name = self.value()
            self._take(":", "Expecting ':' delimiter")
            self.character()
            yield name
            if self.character() == "}":
                self.at += 1
                return
            self._take(",", "Expecting ',' delimiter")

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self.character():
            raise self._unexpected("Extra data")

    def place(self, position: int) -> str:
        """A position of the window as a place in the file, in the words of the ``json`` module."""
        line = self.lines + self.text.count("\n", 0, position) + 1
        start = self.text.rfind("\n", 0, position) + 1
        column = position - start + 1 if start else self.before + position - self.line_start + 1
        return f"line {line} column {column} (char {self.before + position})"

    def _take(self, character: str, message: str) -> None:
        if self.character() != character:
            raise self._unexpected(message)
        self.at += 1

    def _unexpected(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self.text, self.at)

    def _move(self, size: int) -> None:
        """Drop what was taken, and read on."""
        ends = self.text.count("\n", 0, self.at)
        if ends:
            self.lines += ends
            self.line_start = self.before + self.text.rfind("\n", 0, self.at) + 1
        self.before += self.at
        chunk = self.file.read(size)
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk


def _not_json(path: Path, window: _Window, error: Exception) -> DataError:
    why = f"{error.msg}: {window.place(error.pos)}" if isinstance(error, json.JSONDecodeError) else str(error)
    return DataError(f"{path} is not JSON ({why}); repair it, or give its format")


def _no_list(name: str, path: Path) -> DataError:
    return DataError(f"{path} has no list of objects under '{name}'; give its format, or repair it")
