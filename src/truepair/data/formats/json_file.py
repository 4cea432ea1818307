"""Reading a whole JSON file."""

import json
from pathlib import Path
from typing import Any

from truepair.errors import DataError


def load_json(path: Path) -> Any:
    """Parse a JSON file.

    Bytes that are not UTF-8 become lone surrogates, and are found when captions are checked.

    Raises:
        DataError: the file is not JSON.
    """
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); repair it, or give its format") from None


def list_in(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a name of a JSON object.

    Raises:
        DataError: there is no such list.
    """
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} has no list of objects under '{name}'; give its format, or repair it")
    return entries
