"""Karpathy's split files (``dataset_coco.json``, ``dataset_flickr30k.json``, ``dataset_flickr8k.json``)."""

from collections.abc import Iterator
from typing import Any

from truepair.data.formats.json_file import list_in, load_json
from truepair.data.formats.record import Reader, Record, Skips, beside
from truepair.data.source import SourceConfig
from truepair.errors import DataError


class KarpathyReader(Reader):
    """Reads ``{"images": [{filename, filepath?, imgid, split, sentids, sentences: [{raw, sentid}]}]}``.

    Image ids are ``imgid``, caption ids ``sentid``. The split "restval" stays a split of its own.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = [config.path]
        self.roots = beside(config.path)

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order.

        Raises:
            DataError: the file is not in this layout.
        """
        path = self.config.path
        for number, entry in enumerate(list_in(load_json(path), "images", path), 1):
            yield _record(entry, f"{path.name} image {number}")


def _record(entry: dict[str, Any], where: str) -> Record:
    sentences, name = entry.get("sentences"), entry.get("filename")
    if not isinstance(name, str) or not isinstance(sentences, list):
        raise DataError(f"{where} has no filename or no list of sentences; give the right format, or repair it")
    if not all(isinstance(sentence, dict) for sentence in sentences):
        raise DataError(f"{where} has a sentence that is no object; repair it")
    ids = [sentence.get("sentid") for sentence in sentences]
    path = f"{entry['filepath']}/{name}" if entry.get("filepath") else name
    return Record(
        where=where,
        key=path,
        image_path=path,
        captions=[sentence.get("raw") for sentence in sentences],
        image_id=entry.get("cocoid", entry.get("imgid")),  # COCO's own id is what judgements refer to
        caption_ids=None if None in ids else ids,
        split=str(entry.get("split", "train")),
    )
