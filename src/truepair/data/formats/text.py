"""Text of a source in whatever encoding it has."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from truepair.errors import DataError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)

_HEAD = 512  # bytes by which UTF-16 without a mark is known


def encoding_of(head: bytes) -> str:
    """Encoding of a text by its first bytes.

    A mark says it; else zero bytes do, which UTF-8 text never has, and UTF-16 has in one half of nearly all places:
    punctuation, digits and line ends are Latin everywhere. What is neither is UTF-8.
    """
    marked = _marked(head)
    if marked is not None:
        return marked
    zeros = [head[start:_HEAD:2].count(0) for start in (0, 1)]
    if max(zeros) * 16 < min(len(head), _HEAD) or min(zeros) * 4 > max(zeros) or not any(zeros):
        return "utf-8"  # a few zero bytes are damage
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _marked(head: bytes) -> str | None:
    """Encoding that the mark at the beginning of a text says, and that takes it off."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def _codec(encoding: str | None, head: bytes) -> str:
    """The codec of a text: as stated, without its mark; or by its first bytes."""
    if encoding is None:
        return encoding_of(head)
    stated, marked = codecs.lookup(encoding).name, _marked(head)
    return marked if marked is not None and stated.startswith(marked.removesuffix("-sig")) else encoding


def decoded(data: bytes, encoding: str | None) -> str:
    """A whole text; bytes that are none of its encoding become lone surrogates, found when captions are checked.

    Args:
        data: the text as it is stored.
        encoding: as ``SourceConfig`` has it.
    """
    try:
        return data.decode(_codec(encoding, data), "surrogateescape")
    except UnicodeError:  # other encodings than UTF-8 have no place for a stray byte
        return data.decode("utf-8", "surrogateescape")


def open_text(path: Path, encoding: str | None, *, newline: str | None = None) -> TextIO:
    """A text file for reading; bytes that are none of its encoding become lone surrogates.

    Args:
        path: the file.
        encoding: as ``SourceConfig`` has it.
        newline: as for ``open``.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return path.open(encoding=_codec(encoding, head), errors="surrogateescape", newline=newline)


def text_lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file.

    Raises:
        DataError: it is not text of its encoding.
    """
    try:
        yield from file
    except UnicodeError as error:
        raise DataError(f"{path.name} is not text: {error}; give encoding") from None
