"""A folder of classes, each a folder of images."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from truepair.data.formats.record import IMAGE_SUFFIXES, Reader, Record, Skips
from truepair.data.formats.shards import LEADS_NOWHERE, files_below
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_in_name


class ClassFolderReader(Reader):
    """Reads ``CLASS/a.jpg``, or ``SPLIT/CLASS/a.jpg`` where every first folder is named for a split.

    The text of an image is the name of its class, as the folder has it. Folders within a class belong to it, and links
    are followed. Files come in order of their path.
    """

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.roots = [config.path]
        files, self.dead = files_below(config.path)
        self.files = [file for file in files if not file.name.startswith(".")]

    def named_split(self, file: Path) -> None:
        """No split: a class may be called anything; where all first folders are splits, the rows state theirs."""
        return

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order of their path."""
        inside = [file.relative_to(self.config.path) for file in self.files]
        images = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
        splits = {folder: split_in_name(folder) for folder in {path.parts[0] for path in images if len(path.parts) > 1}}
        by_split = bool(splits) and all(splits.values())
        for path in images:
            rest = path.parts[1:] if by_split else path.parts
            if len(rest) < 2:
                skips.row(path.as_posix(), "it lies in no folder of a class")
                continue
            name = path.as_posix()
            yield Record(name, name, [rest[0]], image_path=name, split=splits[path.parts[0]] if by_split else None)
        for link in self.dead:
            skips.row(link.relative_to(self.config.path).as_posix(), LEADS_NOWHERE)
        others = Counter(path.suffix.lower() for path in inside if path.suffix.lower() not in IMAGE_SUFFIXES)
        for suffix, count in sorted(others.items()):
            skips.note(str(self.config.path), f"{count} files *{suffix} are no images")
