"""JSON Lines: one object a line, with an image path and a caption or captions."""

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from truepair.data.formats.columns import CAPTION_NAMES, IMAGE_NAMES, find_column
from truepair.data.formats.entry import extra_fields, record_of_entry
from truepair.data.formats.record import Reader, Record, Skips, beside
from truepair.data.source import SourceConfig
from truepair.errors import DataError


class JsonlReader(Reader):
    """Reads lines such as ``{"image": "a.jpg", "captions": ["a dog"], "image_id": 7, "split": "train"}``.

    Optional fields: image_id, caption_ids, split, group, family, names. Further scalar fields become text columns.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = [config.path]
        self.roots = beside(config.path)

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further fields of all lines."""
        names: dict[str, None] = {}
        for where, entry in self._entries():
            names.update(dict.fromkeys(extra_fields(entry, *self._columns(entry, where))))
        return tuple(names)

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the lines in order.

        Raises:
            DataError: a line is no JSON object, or has no image or caption field.
        """
        for where, entry in self._entries():
            image_name, caption_name = self._columns(entry, where)
            yield record_of_entry(entry, where, image_name=image_name, caption_name=caption_name, extra=self.extra)

    def _columns(self, entry: dict[str, Any], where: str) -> tuple[str, str]:
        return (
            find_column(entry, self.config.image_column, IMAGE_NAMES, "image", where),
            find_column(entry, self.config.caption_column, CAPTION_NAMES, "caption", where),
        )

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        # Bytes that are not UTF-8 become lone surrogates, and are found when captions are checked.
        with self.config.path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{self.config.path.name} line {number}"
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where} is not JSON ({error}); repair or delete it") from None
                if not isinstance(entry, dict):
                    raise DataError(f"{where} is not a JSON object but {line.strip():.40}; repair or delete it")
                yield where, entry
