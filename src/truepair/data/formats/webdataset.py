"""WebDataset: tar shards in which the files of one sample share a name."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from truepair.data.formats.downloads import note_failed
from truepair.data.formats.members import LARGEST_TEXT, Sample, Samples, caption_endings, fill, samples_of
from truepair.data.formats.record import Reader, Record, Skips
from truepair.data.formats.shards import expand, names_of
from truepair.data.formats.text import decoded
from truepair.data.formats.trees import note_aside
from truepair.data.source import SourceConfig
from truepair.errors import DataError

_PICKLES = frozenset((".pkl", ".pickle", ".pyd", ".pt", ".pth"))

_DOTTED = (
    "its name has a dot before the ending, and WebDataset ends a sample's name at the first one; give key_split 'last'"
)

_BLOCK = tarfile.BLOCKSIZE


class WebDatasetReader(Reader):
    """Reads tars with the captions of an image in ``.txt`` or a member like it, or else in ``.json``.

    The source is a tar, a folder, a pattern or a range of tars. Nothing is extracted: the table keeps the byte range of
    each image in its shard. Pickled members are never opened. ``.json`` is an object with a caption field, which may
    state image_id, caption_ids, split, group, family and names as well, or a list of captions or of such objects. A
    folder in a tar speaks of a split as one on disk does.
    """

    suffixes = (".tar",)
    source_kind = "files"
    version = "2"  # of what is told of shards

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.endings = caption_endings(config)
        self.files = expand(config.path, ".tar")
        self.roots = [self.files[0].parent]

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the samples of the shards in order.

        Raises:
            DataError: a shard is damaged, compressed or no tar.
        """
        for shard, name in zip(self.files, names_of(self.files), strict=True):
            samples = self._index(shard, name, skips)
            beside = Counter[str]()
            with shard.open("rb") as file:
                for sample in samples.found:
                    folder = PurePosixPath(sample.key).parent
                    # A place in the shard is asked for its split as one on disk.
                    place = shard / folder if folder.name else shard
                    record = Record(f"{name}: {sample.key}", f"{name}/{sample.key}", captions=[], file=place)
                    if self._filled(record, shard, file, sample, skips):
                        beside.update([ending for ending in self.endings if ending in sample.texts][1:])
                        yield record
            for ending, count in sorted(beside.items()):
                skips.note(name, f"{count} members {ending}: not used beside other captions (caption_column)")
        note_failed([shard.with_suffix(".parquet") for shard in self.files], skips)
        note_aside(self.config.path, ".tar", skips)

    def _filled(
        self, record: Record, shard: Path, file: BinaryIO, sample: Sample[tuple[int, int]], skips: Skips
    ) -> bool:
        """Put a sample into a record; False for one that cannot be used."""
        if any(size > LARGEST_TEXT for _, size in sample.texts.values()):
            skips.row(record.where, f"its text is larger than {LARGEST_TEXT} bytes")
            return False
        texts = {ending: decoded(_read(file, place), self.config.encoding) for ending, place in sample.texts.items()}
        why = fill(record, sample, texts, self.config, captionless=self.captionless)
        if why is not None:
            skips.row(record.where, why)
            return False
        offset, size = sample.image
        record.image = {"path": str(shard.absolute()), "offset": offset, "size": size}
        return True

    def _index(self, shard: Path, name: str, skips: Skips) -> Samples[tuple[int, int]]:
        """Samples of a shard, from the headers of its members alone."""
        unused: Counter[str] = Counter()
        if not _is_whole(shard):
            skips.note(
                name, "it does not end as a tar does that was written in full; if it was cut off, fetch it again"
            )
        members: list[tuple[str, tuple[int, int]]] = []
        for member in _members(shard):
            path = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isreg() or path.name.startswith("."):
                unused["that are links or hidden"] += 1
            else:
                members.append((str(path), (member.offset_data, member.size)))
        samples = samples_of(members, self.endings, key_split=self.config.key_split, one_image=True)
        unused.update(samples.unused)
        if samples.further:
            unused["that are further images of a sample"] = len(samples.further)
        for image in samples.dotted:
            skips.row(f"{name}: {image}", _DOTTED)
        for key in dict.fromkeys(text.rpartition(".")[0] for text in samples.alone):
            skips.row(f"{name}: {key}", "it has no image")
        for what, count in sorted(unused.items()):
            why = "pickles are never opened" if what in _PICKLES else "not used"
            skips.note(name, f"{count} members {what or 'without an ending'}: {why}")
        return samples


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """Headers of a tar; the bodies are skipped over."""
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.offset_data + member.size > size:
                    raise DataError(f"{shard} ends within {member.name}; fetch it again")
                yield member
            _check_end(shard, archive.offset)
    except tarfile.TarError as error:
        hint = "unpack it with gunzip" if _is_compressed(shard) else "fetch it again"
        raise DataError(f"{shard} is not a readable tar ({error}); {hint}") from None


def _check_end(shard: Path, offset: int) -> None:
    """A damaged header ends Python's iteration without an error, like the zero blocks of a proper end."""
    with shard.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK * 64):
            if block.strip(b"\0"):
                raise DataError(f"{shard} is damaged after byte {offset}, or several tars in one; fetch or split it")


def _is_whole(shard: Path) -> bool:
    """Whether a tar ends with a block of zeros; without, it may have been cut off between two members."""
    with shard.open("rb") as file:
        file.seek(max(shard.stat().st_size - _BLOCK, 0))
        return not file.read().strip(b"\0")


def _is_compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read(file: BinaryIO, place: tuple[int, int]) -> bytes:
    offset, size = place
    file.seek(offset)
    return file.read(size)
