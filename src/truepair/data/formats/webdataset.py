"""WebDataset: tar shards in which the files of one sample share a name."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from truepair.data.formats.record import CAPTION_NAMES, IMAGE_SUFFIXES, Reader, Record, Skips, captions_in, state_fields
from truepair.data.formats.shards import expand, names_of
from truepair.data.source import SourceConfig
from truepair.errors import DataError

_PICKLES = frozenset((".pkl", ".pickle", ".pyd", ".pt", ".pth"))

_LARGEST_TEXT = 16 << 20  # bytes

_CAPTION_ENDINGS = (".txt", ".caption", ".captions", ".text", ".alt.txt")
"""Members that hold captions; of several, the first."""

_DOTTED = (
    "its name has a dot before the ending, and WebDataset ends a sample's name at the first one; give key_split 'last'"
)

_BLOCK = tarfile.BLOCKSIZE


class WebDatasetReader(Reader):
    """Reads tars with the captions of an image in ``.txt`` or a member like it, or else in ``.json``.

    The source is a tar, a folder, a pattern or a range of tars. Nothing is extracted: the table keeps the byte range of
    each image in its shard. Pickled members are never opened. ``.json`` is an object with a caption field, which may
    state image_id, caption_ids, split, group, family and names as well, or a list of captions or of such objects.
    """

    suffixes = (".tar",)
    source_kind = "files"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        wanted = config.caption_column
        self.endings = _CAPTION_ENDINGS if wanted is None else (f".{wanted.removeprefix('.').lower()}",)
        self.files = expand(config.path, ".tar")
        self.roots = [self.files[0].parent]

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the samples of the shards in order.

        Raises:
            DataError: a shard is damaged, compressed or no tar.
        """
        for shard, name in zip(self.files, names_of(self.files), strict=True):
            samples = self._index(shard, skips)
            beside = Counter[str]()
            with shard.open("rb") as file:
                for key, sample in samples.items():
                    record = Record(f"{name}: {key}", f"{name}/{key}", captions=[], file=shard)
                    if self._filled(record, shard, file, sample, skips):
                        beside.update(list(sample.endings(self.endings))[1:])
                        yield record
            for ending, count in sorted(beside.items()):
                skips.note(name, f"{count} members {ending}: not used beside other captions (caption_column)")

    def _filled(self, record: Record, shard: Path, file: BinaryIO, sample: "_Members", skips: Skips) -> bool:
        """Put a sample into a record; False for one that cannot be used."""
        if sample.image is None:
            skips.row(record.where, "it has no image")
            return False
        if any(size > _LARGEST_TEXT for _, size in sample.texts.values()):
            skips.row(record.where, f"its text is larger than {_LARGEST_TEXT} bytes")
            return False
        texts = {suffix: _text(file, place) for suffix, place in sample.texts.items()}
        try:
            entry = json.loads(texts.get(".json", "{}"))
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict | list):
            skips.row(record.where, "its .json is neither a JSON object nor a list")
            return False
        offset, size = sample.image
        ending = next(sample.endings(self.endings), None)
        record.captions = self._captions(entry) if ending is None else captions_in(texts[ending], self.config)
        record.image = {"path": str(shard.absolute()), "offset": offset, "size": size}
        if isinstance(entry, dict):
            state_fields(record, entry)
        return True

    def _captions(self, entry: Any) -> list[Any]:
        """The captions of ``.json``: of a list, those of each item."""
        if isinstance(entry, list):
            return [caption for item in entry for caption in self._captions(item)]
        if not isinstance(entry, dict):
            return [entry]
        wanted = CAPTION_NAMES if self.config.caption_column is None else (self.config.caption_column,)
        found: Any = next((entry[name] for name in wanted if name in entry), [])
        return found if isinstance(found, list) else [found]

    def _index(self, shard: Path, skips: Skips) -> dict[str, "_Members"]:
        """Samples of a shard by key, from the headers of its members alone."""
        samples: dict[str, _Members] = {}
        unused: Counter[str] = Counter()
        dotted: list[tuple[str, str]] = []  # key and name of images whose ending has a dot within
        for member in _members(shard):
            path = PurePosixPath(member.name)
            split = path.name.partition(".") if self.config.key_split == "first" else path.name.rpartition(".")
            stem, ending, place = split[0], split[1] + split[2].lower(), (member.offset_data, member.size)
            key = str(path.with_name(stem)) if stem else ""
            if member.isdir():
                continue
            if not member.isreg() or not stem:
                unused["that are links or hidden"] += 1
            elif ending in IMAGE_SUFFIXES:
                samples.setdefault(key, _Members()).image = place
            elif ending == ".json" or ending in self.endings:
                samples.setdefault(key, _Members()).texts[ending] = place
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                dotted.append((key, member.name))
            else:
                unused[ending if ending == path.suffix.lower() else f"*{path.suffix.lower()} with more dots"] += 1
        for key, name in dotted:
            if key in samples and samples[key].image is not None:
                unused["that are further images of a sample"] += 1
            else:
                skips.row(f"{shard.name}: {name}", _DOTTED)
        for what, count in sorted(unused.items()):
            why = "pickles are never opened" if what in _PICKLES else "not used"
            skips.note(shard.name, f"{count} members {what or 'without an ending'}: {why}")
        return samples


@dataclass
class _Members:
    """Members of a shard that share a key: place and size of each, by suffix."""

    image: tuple[int, int] | None = None
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def endings(self, wanted: Iterable[str]) -> Iterator[str]:
        """The endings of some that are there."""
        return (ending for ending in wanted if ending in self.texts)


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


def _is_compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _text(file: BinaryIO, place: tuple[int, int]) -> str:
    offset, size = place
    file.seek(offset)
    return file.read(size).decode("utf-8-sig", "surrogateescape")
