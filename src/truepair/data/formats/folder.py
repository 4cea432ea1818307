"""A folder of images, each with a text file of captions beside it."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from truepair.data.formats.record import IMAGE_SUFFIXES, Reader, Record, Skips, captions_in
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_place


class FolderReader(Reader):
    """Reads ``a.jpg`` with the captions in ``a.txt``, one a line by default; in sub-folders, too.

    Files come in order of their path. A folder named for a split sets the split.
    """

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.roots = [config.path]
        self.files = sorted(Path(folder, name) for folder, _, names in os.walk(config.path) for name in names)

    def named_split(self, file: Path) -> str | None:
        """Split that the name of a folder that a picture is in speaks of; pictures may be called anything."""
        return split_of_place(file.relative_to(self.folder), self.folder, by_name=False)

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order of their path."""
        folder = self.config.path
        texts = {file.with_suffix("") for file in self.files if file.suffix.lower() == ".txt"}
        others: Counter[str] = Counter()
        used = set()
        for file in self.files:
            suffix, stem = file.suffix.lower(), file.with_suffix("")
            path = file.relative_to(folder).as_posix()
            if suffix in IMAGE_SUFFIXES and stem in texts:
                used.add(stem)
                text = stem.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="surrogateescape")
                yield Record(path, path, captions_in(text, self.config), image_path=path, file=file)
            elif suffix in IMAGE_SUFFIXES:
                skips.row(path, "there is no text file beside the image")
            elif suffix != ".txt":
                others[suffix] += 1
        for stem in sorted(texts - used):
            skips.row(f"{stem.relative_to(folder).as_posix()}.txt", "there is no image beside the text file")
        for suffix, count in sorted(others.items()):
            skips.note(str(folder), f"{count} files *{suffix} are neither images nor captions")
