"""COCO captions (``captions_train2014.json``)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truepair.data.formats.columns import split_in_name
from truepair.data.formats.json_file import list_in, load_json
from truepair.data.formats.record import Reader, Record, Skips, beside
from truepair.data.source import SourceConfig
from truepair.errors import DataError


class CocoReader(Reader):
    """Reads ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``.

    The split is that of the file name. Images are looked for in the layout of COCO's archives, too: ``val2014`` beside
    the folder that holds ``captions_val2014.json``.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = [config.path]
        above, pictures = config.path.parent.parent, config.path.stem.rpartition("_")[2]
        self.roots = [
            *beside(config.path),
            config.path.parent / pictures,
            above / pictures,
            above / "images" / pictures,
        ]

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order, each with its annotations.

        Raises:
            DataError: the file is not in this layout.
        """
        path = self.config.path
        content = load_json(path)
        images = list_in(content, "images", path)
        by_image = _annotations(list_in(content, "annotations", path), path)
        split = split_in_name(path.stem) or "train"
        for number, image in enumerate(images, 1):
            where = f"{path.name} image {number}"
            name, image_id = image.get("file_name"), image.get("id")
            if not isinstance(name, str) or image_id is None:
                raise DataError(f"{where} has no file_name or no id; repair it")
            own = by_image.pop(image_id, [])
            ids = [annotation.get("id") for annotation in own]
            yield Record(
                where=where,
                key=name,
                image_path=name,
                captions=[annotation.get("caption") for annotation in own],
                image_id=image_id,
                caption_ids=None if None in ids else ids,
                split=split,
            )
        for image_id, own in by_image.items():
            skips.part(f"{path.name} image id {image_id}", f"its {len(own)} annotations belong to no image of the file")


def _annotations(entries: list[dict[str, Any]], path: Path) -> dict[Any, list[dict[str, Any]]]:
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for number, annotation in enumerate(entries, 1):
        if "caption" not in annotation or "image_id" not in annotation:
            raise DataError(f"{path.name} annotation {number} has no caption or no image_id; give a captions file")
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    return by_image
