"""The errors a user can cause. Each says in one line what is wrong and what to do about it."""

import difflib
from collections.abc import Iterable

_LONGEST = 100  # characters of a mistyped name that are compared


class TruepairError(Exception):
    """Base of the errors raised on purpose; the command line prints them as one line, without a traceback."""


class DataError(TruepairError):
    """Input data that cannot be used as it is: a missing file, a broken image, an unknown format."""


class ConfigError(TruepairError):
    """A recipe or an option that contradicts itself, or names something that does not exist."""


class CheckpointError(TruepairError):
    """A checkpoint that is missing, damaged, or belongs to another model."""


class MadeAgain(UserWarning):
    """A cache is damaged or out of date, and is made again; commands print the text as one line."""


def message_of(error: Exception) -> str:
    """What an error says; torch wraps one that a loading process raised into that process's traceback."""
    text = str(error).strip()
    if not text.startswith("Caught ") or "Traceback" not in text:
        return text
    return text.splitlines()[-1].partition(": ")[2] or text


def shortened(value: object, most: int = 200) -> str:
    """A value as text of one line for a message, cut if it is long."""
    line = " ".join(str(value)[: 4 * most].split())
    return line if len(line) <= most else f"{line[:most]}..."


def nearest(word: str, words: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word[:_LONGEST], list(words), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
