"""What is wrong with captions as texts, before any tokenizer reads them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import ftfy
import numpy as np
from ftfy.badness import is_bad
from numpy.typing import NDArray

from truepair.data.formats.record import IMAGE_SUFFIXES
from truepair.relations.text import caption_keys

_AT_ONCE = 65_536  # texts between two calls of a progress bar

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_MARKUP = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,6});|</?[a-z][^<>]*>", re.IGNORECASE)

# What cameras, scanners and phones call a file, with its number: IMG_1234, DSC00012 (2), Screenshot 2021-03-04.
_NUMBERED = re.compile(
    r"(?:img|image|imag|dsc[nf]?|dcim|pxl|mvimg|gopr|photo|picture|pic|scan|screen ?shot|whatsapp image|untitled"
    r"|unnamed|file|frame|download|figure|fig|slide|page)[\s_#.-]*\(?\d[\d\s_.:()at-]*",
    re.IGNORECASE,
)

_NUMBER = re.compile(r"[\W\d_]*\d[\W\d_]*|[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)

_SAYS_NOTHING = frozenset(
    """
    untitled|unnamed|no title|no caption|no description|no alt|no text|no image|image|images|picture|pictures|photo
    |photos|photograph|pic|img|thumbnail|null|none|nan|n/a|na|undefined|unknown|test|caption|captions|description|default
    |placeholder|image not available|image not found|click to enlarge|view image|stock photo|alt|alt text|title|todo|xxx
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)

NO_SCRIPT = "none"
"""Script of a text without letters."""


@dataclass(frozen=True)
class TextFaults:
    """What is wrong with T distinct texts.

    Attributes:
        keys: of their normalised text [T]; texts of one key are treated as one.
        generic: whether a text says nothing of its picture: a file name, a number, "untitled" [T].
        mojibake: whether its letters were read in a wrong encoding, or are HTML code [T].
        control: whether it holds control characters [T].
        scripts: number of the script that most of its letters are of [T].
        script_names: of the scripts, as Unicode's names of letters begin.
    """

    keys: NDArray[np.int64]
    generic: NDArray[np.bool_]
    mojibake: NDArray[np.bool_]
    control: NDArray[np.bool_]
    scripts: NDArray[np.int64]
    script_names: list[str]

    @classmethod
    def of(
        cls, texts: Sequence[str], cased: bool, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Self:
        """Look at texts.

        Args:
            texts: T distinct texts.
            cased: whether case tells captions apart.
            progress: called with (done, all).
        """
        keys = caption_keys(texts, cased)
        generic, mojibake, control = (np.zeros(len(texts), bool) for _ in range(3))
        scripts, names = np.zeros(len(texts), np.int64), {"LATIN": 0}
        for place, text in enumerate(texts):
            generic[place] = is_generic(text)
            mojibake[place] = is_mojibake(text)
            control[place] = not text.isprintable() and has_control(text)
            if not text.isascii() or not any(map(str.isalpha, text)):
                scripts[place] = names.setdefault(script_of(text), len(names))
            if place % _AT_ONCE == 0:
                progress(place, len(texts))
        progress(len(texts), len(texts))
        return cls(keys, generic, mojibake, control, scripts, list(names))


def is_generic(text: str) -> bool:
    """Whether a caption says nothing of what its picture shows."""
    text = text.strip()
    stem, dot, ending = text.rpartition(".")
    if dot and f".{ending.lower()}" in IMAGE_SUFFIXES and (" " not in stem or _NUMBERED.fullmatch(stem)):
        return True
    if text.strip(" .!?-_*#'\"").casefold() in _SAYS_NOTHING:
        return True
    return any(form.fullmatch(text) for form in (_NUMBERED, _NUMBER, _LINK))


def is_file_name(text: str, stem: str) -> bool:
    """Whether a caption is the name of its own picture's file, and no words: "0001-b" of ``0001-b.jpg``.

    Args:
        text: the caption.
        stem: name of the file without its ending.
    """
    named = text.casefold() == stem.casefold()
    return named and " " not in text and any(not letter.isalpha() for letter in text)


def is_mojibake(text: str) -> bool:
    """Whether letters were read in a wrong encoding ("cafÃ©"), were lost, or are HTML code ("&amp;", "<br>")."""
    if _MARKUP.search(text):
        return True
    return not text.isascii() and (_REPLACEMENT in text or bool(is_bad(text)))


def has_control(text: str) -> bool:
    """Whether a text holds control characters; line breaks and tabs are none."""
    return any(unicodedata.category(letter) == "Cc" and letter not in "\n\r\t" for letter in text)


def mended(text: str) -> str:
    """A text with its encoding repaired, without control characters and HTML code; on one line."""
    repaired = ftfy.fix_text(text, unescape_html=True, uncurl_quotes=False)
    plain = re.sub(r"</?[a-zA-Z][^<>]*>", " ", repaired)
    return " ".join("".join(" " if unicodedata.category(one) == "Cc" else one for one in plain).split())


def script_of(text: str) -> str:
    """The script that most letters of a text are of, by the first word of their names in Unicode: "CYRILLIC", "CJK"."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else NO_SCRIPT


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, NO_SCRIPT).split()[0].split("-")[0]
