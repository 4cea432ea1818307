"""What words and names say about splits: one rule for the rows, the files and the folders of every format."""

import re
from collections.abc import Sequence
from pathlib import PurePath

# The words that the `datasets` library knows in file names, and Karpathy's "restval", which stays a split of its own.
_WORDS = {
    "train": "train",
    "training": "train",
    "restval": "restval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}

USUAL = frozenset(_WORDS.values())
"""Splits that data have as a rule; others are there because somebody made them."""

_WORD = rf"(?<![a-z])({'|'.join(_WORDS)})(?![a-z])"

_ONLY = re.compile(rf"{_WORD}(\d{{4}})?")  # "train", "val2014"

_LAST = re.compile(rf".*?{_WORD}(\d{{4}})?")  # "flickr_test"; "test_drive" and "test1" are other names


def split_of_word(word: str) -> str:
    """The split that a row states: "Validation", "valid" and "dev" are "val"; a word of another kind stays as it is."""
    return _WORDS.get(word.strip().lower(), word)


def split_in_name(name: str) -> str | None:
    """Split that a name speaks of ("captions_val2014.json": "val"); None without one, and of several ("train_val")."""
    found = {_WORDS[word] for word in re.findall(_WORD, name.lower())}
    return found.pop() if len(found) == 1 else None


def split_of_place(place: PurePath, folder: PurePath, *, by_name: bool = True) -> str | None:
    """Split that the place of a file speaks of.

    The file's own name is asked first; then the folders below the source's, the nearest first, those that are called
    nothing but a split before those whose name only holds one; last the source's own folder, if its name is or ends in
    a split, as far as the user wrote it: who works in a folder "test" and names ``pairs.csv`` means no split.

    Args:
        place: path of the file below ``folder``.
        folder: folder that the source is, or that it lies in, as the user wrote it.
        by_name: ask the file's name; not for pictures, which may be called anything.
    """
    if by_name and (split := split_in_name(place.stem)) is not None:
        return split
    below = list(reversed(place.parts[:-1]))
    return _first(below, _ONLY) or _first(below) or split_of_folder(folder)


def split_of_folder(folder: PurePath) -> str | None:
    """Split that the name of a source's own folder speaks of."""
    return _first([folder.name], _LAST)


def _first(names: Sequence[str], form: re.Pattern[str] | None = None) -> str | None:
    """The first split that names of a form speak of."""
    fitting = (name for name in names if form is None or form.fullmatch(name.lower()))
    return next((split for name in fitting if (split := split_in_name(name)) is not None), None)
