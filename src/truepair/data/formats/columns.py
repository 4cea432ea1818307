"""Which column holds what: names in common use."""

import re
from collections.abc import Iterable

from truepair.errors import DataError

IMAGE_NAMES = (
    "image", "image_path", "filepath", "file_path", "file_name", "filename", "path", "img", "jpg", "png", "image_url",
    "url",
)  # fmt: skip
CAPTION_NAMES = (
    "caption", "captions", "text", "texts", "txt", "sentence", "sentences", "title", "alt_text", "alt", "description",
)  # fmt: skip

_SPLIT = re.compile(r"(?<![a-z])(train|restval|validation|valid|val|dev|test)(?![a-z])")
_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val"}


def find_column(columns: Iterable[str], wanted: str | None, known: tuple[str, ...], what: str, where: str) -> str:
    """Name of the column that holds the images or the captions; names are compared without regard to case.

    Args:
        columns: the columns there are.
        wanted: the user's choice, or None to detect it.
        known: names to look for, the most telling first.
        what: "image" or "caption".
        where: what the columns belong to, for the message.

    Raises:
        DataError: there is no such column.
    """
    there = list(columns)
    by_lower = {name.lower(): name for name in reversed(there)}
    if wanted is not None and wanted in there:
        return wanted
    if wanted is None:
        for name in known:
            if name in by_lower:
                return by_lower[name]
    looked = wanted if wanted is not None else ", ".join(known)
    raise DataError(f"{where} has no {what} column ({looked}); it has {', '.join(there)}: name one with {what}_column")


def split_in_name(name: str) -> str | None:
    """Split that a file or folder name speaks of ("captions_val2014.json" -> "val"), or None."""
    found = _SPLIT.search(name.lower())
    return _SPLIT_NAMES.get(found[1], found[1]) if found else None
