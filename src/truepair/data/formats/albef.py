"""ALBEF's JSON: a list of {image, caption}."""

from collections.abc import Iterator

from truepair.data.formats.columns import CAPTION_NAMES, IMAGE_NAMES, find_column
from truepair.data.formats.entry import record_of_entry
from truepair.data.formats.json_file import load_json
from truepair.data.formats.record import Reader, Record, Skips, beside
from truepair.data.source import SourceConfig
from truepair.errors import DataError


class AlbefReader(Reader):
    """Reads a list of ``{"image": path, "caption": text or list of texts, "image_id": optional}``.

    The files of the ALBEF line repeat an image for each of its captions; ``repeats="merge"`` makes one row of these.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = [config.path]
        self.roots = beside(config.path)

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the entries in order.

        Raises:
            DataError: the file is no JSON list of objects with an image and a caption.
        """
        path = self.config.path
        entries = load_json(path)
        if not isinstance(entries, list):
            raise DataError(
                f"{path} holds no list but one {type(entries).__name__}; give its format, or wrap it in a list"
            )
        for number, entry in enumerate(entries, 1):
            where = f"{path.name} entry {number}"
            if not isinstance(entry, dict):
                raise DataError(f"{where} is not an object but {entry!r:.40}; repair or delete it")
            yield record_of_entry(
                entry,
                where,
                image_name=find_column(entry, self.config.image_column, IMAGE_NAMES, "image", where),
                caption_name=find_column(entry, self.config.caption_column, CAPTION_NAMES, "caption", where),
            )
