"""A folder of images, each with a text file of captions beside it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from truepair.data.formats.downloads import STATISTICS, is_list_of_downloads, note_failed
from truepair.data.formats.members import LARGEST_TEXT, Sample, caption_endings, fill, samples_of
from truepair.data.formats.record import Reader, Record, Skips
from truepair.data.formats.shards import LEADS_NOWHERE, files_below
from truepair.data.formats.text import decoded
from truepair.data.images import what_else
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_place

_OF_MACS = "__MACOSX"  # what their archives hold beside the files themselves


class FolderReader(Reader):
    """Reads ``a.jpg`` with the captions in ``a.txt`` or a file like it, one a line by default; in sub-folders, too.

    The files are those that tars hold: see ``WebDatasetReader``. Files come in order of their path. A folder named for
    a split sets the split; links are followed. What img2dataset fetched as files is such a folder.
    """

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.roots = [config.path]
        self.files, self.dead = files_below(config.path)

    def named_split(self, file: Path) -> str | None:
        """Split that the name of a folder that a picture is in speaks of; pictures may be called anything."""
        return split_of_place(file.relative_to(self.folder), self.folder, by_name=False)

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order of their path."""
        folder, endings = self.config.path, caption_endings(self.config)
        places = ((file.relative_to(folder).as_posix(), file) for file in self.files)
        shown = [(name, file) for name, file in places if not _is_hidden(name)]
        samples = samples_of(shown, endings, key_split="last", one_image=False)
        for sample in samples.found:
            path = sample.image.relative_to(folder).as_posix()
            record = Record(path, path, captions=[], image_path=path, file=sample.image)
            why = self._fill(record, sample)
            if why is None:
                yield record
            else:
                skips.row(path, why)
        for link in self.dead:
            skips.row(link.relative_to(folder).as_posix(), LEADS_NOWHERE)
        self._note_others(samples.alone, samples.unused, len(self.files) - len(shown), skips)

    def _fill(self, record: Record, sample: Sample[Path]) -> str | None:
        """Put the texts of a sample into its record; why not, or None."""
        if not self.captionless and not sample.texts and not sample.others and sample.unread is None:
            return "there is no text file beside the image"
        other = next((name for name in map(what_else, sample.texts.values()) if name), None)
        if other is not None:
            return f"its text is {other}, not a file"
        if any(file.stat().st_size > LARGEST_TEXT for file in sample.texts.values()):
            return f"its text is larger than {LARGEST_TEXT} bytes"
        texts = {ending: decoded(file.read_bytes(), self.config.encoding) for ending, file in sample.texts.items()}
        return fill(record, sample, texts, self.config, captionless=self.captionless)

    def _note_others(self, alone: list[str], unused: Counter[str], hidden: int, skips: Skips) -> None:
        """List what is no sample."""
        folder = self.config.path
        for name in sorted(alone):
            if name.lower().endswith(".json"):
                unused[".json"] += not name.endswith(STATISTICS)
            else:
                skips.row(name, "there is no image beside the text file")
        lists = [file for file in self.files if file.suffix.lower() == ".parquet" and is_list_of_downloads(file)]
        unused[".parquet"] -= len(lists)
        note_failed(lists, skips)
        for suffix, count in sorted(unused.items()):
            if count > 0:
                skips.note(str(folder), f"{count} files *{suffix.removeprefix('*')} are neither images nor captions")
        if hidden:
            skips.note(str(folder), f"{hidden} hidden files are not read")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == _OF_MACS for part in name.split("/"))
