"""Rows that are mappings from field to value: JSON objects, lines of a delimited file, rows of a column store."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from truepair.data.formats.record import Record
from truepair.errors import DataError

STATED_FIELDS = ("image_id", "caption_id", "caption_ids", "split", "group", "family", "names")
"""Fields that a row may state beside its image and its captions."""


def record_of_entry(
    entry: Mapping[str, Any],
    where: str,
    *,
    image_name: str,
    caption_name: str,
    key: str | None = None,
    extra: Iterable[str] = (),
) -> Record:
    """Turn a row such as ``{"image": "a.jpg", "caption": "a dog", "image_id": 7}`` into a record.

    Args:
        entry: the row. Its image is a path, encoded bytes, or a mapping with ``bytes`` and ``path``.
        where: place of the row, for messages.
        image_name: field of the image.
        caption_name: field of the caption or captions.
        key: names the image within the source where it has no path.
        extra: further fields to keep.

    Raises:
        DataError: ``caption_ids`` or ``names`` is not a list.
    """
    image, captions = entry.get(image_name), entry.get(caption_name)
    path, cell = _image(image)
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
    """Take over what a row states beside image and captions: ids, split and known truth.

    Raises:
        DataError: ``caption_ids`` or ``names`` is not a list.
    """
    for name in ("caption_ids", "names"):
        if entry.get(name) is not None and not isinstance(entry[name], list):
            raise DataError(f"{record.where}: {name} is not a list but {entry[name]!r:.80}; repair the source")
    record.image_id = entry.get("image_id")
    record.caption_ids = entry.get("caption_ids")
    if entry.get("caption_id") is not None:
        record.caption_ids = [entry["caption_id"]]
    record.names = entry.get("names")
    if entry.get("split") is not None:
        record.split = as_text(entry["split"])
    record.group = None if entry.get("group") is None else as_text(entry["group"])
    record.family = None if entry.get("family") is None else as_text(entry["family"])


def extra_fields(entry: Mapping[str, Any], image_name: str, caption_name: str) -> list[str]:
    """Names of the fields that a table has no column for, as far as they hold scalars."""
    known = {*STATED_FIELDS, "image", "captions", image_name, caption_name}
    return [name for name, value in entry.items() if name not in known and not isinstance(value, list | dict)]


def as_text(value: Any) -> str:
    """A scalar as text: strings as they are, the rest as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _image(value: Any) -> tuple[str | None, dict[str, Any] | None]:
    """Path to resolve, or image cell with bytes."""
    if isinstance(value, str):
        return value or None, None
    if isinstance(value, bytes):
        return None, {"bytes": value}
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return None, {"bytes": value["bytes"], "path": value.get("path")}
        return value.get("path") or None, None
    return None, None
