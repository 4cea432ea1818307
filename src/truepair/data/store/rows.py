"""Records into checked rows of a table."""

from typing import Any

import pyarrow as pa

from truepair.data.formats.record import Record, Skips
from truepair.data.randomness import stable_hash
from truepair.data.source import SourceConfig
from truepair.data.store.paths import ImagePaths
from truepair.errors import DataError

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])

_COLUMNS = [
    pa.field("image", IMAGE_TYPE),
    pa.field("image_id", pa.int64()),
    pa.field("captions", pa.list_(pa.string())),
    pa.field("caption_ids", pa.list_(pa.int64())),
    pa.field("split", pa.string()),
    pa.field("group", pa.string()),
    pa.field("family", pa.string()),
    pa.field("names", pa.list_(pa.string())),
]


def row_schema(extra: tuple[str, ...]) -> pa.Schema:
    """Arrow schema of the rows, with further text columns."""
    return pa.schema([*_COLUMNS, *(pa.field(name, pa.string()) for name in extra)])


class RowMaker:
    """Checks records and makes rows of them; what cannot be used goes to ``skips``.

    Args:
        config: the source.
        paths: resolves image paths.
        skips: where left-out rows and captions are listed.
    """

    def __init__(self, config: SourceConfig, paths: ImagePaths, skips: Skips) -> None:
        self.config = config
        self.paths = paths
        self.skips = skips

    def row(self, record: Record) -> dict[str, Any] | None:
        """Make the row of a record, or None if it is left out.

        Raises:
            DataError: the image path leaves the root, or ids and captions differ in number.
        """
        image = self._image(record)
        if image is None:
            return None
        stated = None if self.config.derive_ids else record.image_id
        image_id = self._id(stated) if stated is not None else stable_hash("image", record.key)
        captions = self._captions(record)
        if not captions:
            return None
        return {
            "image": image,
            "image_id": image_id,
            "captions": [text for _, text in captions],
            "caption_ids": self._caption_ids(record, image_id, captions),
            "split": record.split,
            "group": record.group,
            "family": record.family,
            "names": None if record.names is None else [name for name in record.names if isinstance(name, str)],
            **record.extra,
        }

    def _image(self, record: Record) -> dict[str, Any] | None:
        if record.image is not None:
            return record.image
        if record.image_path is None:
            self.skips.row(record.where, "it has no image")
        elif not _is_unicode(record.image_path):
            self.skips.row(record.where, "its image path is not UTF-8")
        else:
            return {"path": self.paths.resolve(record.image_path, record.where)}
        return None

    def _captions(self, record: Record) -> list[tuple[int, str]]:
        """Usable captions with their position in the record."""
        good: list[tuple[int, str]] = []
        bad: list[tuple[int, str]] = []
        for position, caption in enumerate(record.captions):
            problem = self._caption_problem(caption)
            if problem:
                bad.append((position, problem))
            else:
                good.append((position, caption.strip()))
        if not good:
            self.skips.row(record.where, bad[0][1] if bad else "it has no caption")
        else:
            for position, problem in bad:
                self.skips.part(f"{record.where}, caption {position + 1}", problem)
        return good

    def _caption_problem(self, caption: Any) -> str | None:
        if caption is None:
            return "its caption is empty"
        if not isinstance(caption, str):
            return f"its caption is not text but {caption!r:.40}"
        if not caption.strip():
            return "its caption is empty"
        if len(caption) > self.config.max_caption_length:
            return f"its caption has {len(caption)} characters, more than max_caption_length"
        if not _is_unicode(caption):
            return "its caption is not UTF-8"
        return None

    def _caption_ids(self, record: Record, image_id: int, captions: list[tuple[int, str]]) -> list[int]:
        stated = None if self.config.derive_ids else record.caption_ids
        if stated is None:
            # Texts, not positions: the ids outlive a change of order, and rows of one image do not collide.
            seen: dict[str, int] = {}
            ids = []
            for _, text in captions:
                ids.append(stable_hash("caption", image_id, text, seen.get(text, 0)))
                seen[text] = seen.get(text, 0) + 1
            return ids
        if len(stated) != len(record.captions):
            raise DataError(
                f"{record.where}: {len(stated)} caption ids for {len(record.captions)} captions; repair them, or set "
                "derive_ids"
            )
        return [self._id(stated[position]) for position, _ in captions]

    @staticmethod
    def _id(stated: Any) -> int:
        """A stated id as int64: integers, in digits or not, as they are; anything else by hash."""
        text = str(stated)
        if text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**63:
            return int(text)
        return stable_hash("id", text)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; bytes that were not UTF-8 are read as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
