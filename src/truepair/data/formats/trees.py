"""What a folder holds, by the files in it: one stray file does not decide for a whole tree."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.data.formats.downloads import STATISTICS, without_lists
from truepair.data.formats.members import UNREAD_IMAGES, caption_endings
from truepair.data.formats.record import CAPTIONS_ELSEWHERE, IMAGE_SUFFIXES, Skips
from truepair.data.formats.shards import walk
from truepair.data.source import SourceConfig
from truepair.errors import DataError

ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")

_MOST_FILES = 100_000  # of a folder, are looked at

# Files that mark a folder as laid out for the `datasets` library: written by it, or its own list of captions.
_SAVED = ("dataset_dict.json", "state.json")

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

_LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")

_HEAD = 1 << 16  # bytes of a list that are looked at


@dataclass(frozen=True)
class Tree:
    """The files of a folder and all below, but hidden ones and no more than a number.

    Attributes:
        path: the folder.
        files: the files.
    """

    path: Path
    files: list[Path]

    @classmethod
    def of(cls, path: Path) -> "Tree":
        """Look at a folder."""
        return cls(path, list(islice((file for file in walk(path) if file.name[0] != "."), _MOST_FILES)))

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of some endings."""
        return [file for file in self.files if file.suffix.lower() in suffixes]

    def format(self, config: SourceConfig, *, captionless: bool = False) -> str:
        """Name of its format.

        Of tars, Parquet files and pictures with captions beside them, it is what there are most of; pictures alone
        count where their folders are what is said of them, or where nothing need be said. Where they outnumber tars and
        tables, a list is sought.

        Args:
            config: how the folder is to be read.
            captionless: pictures need no captions.

        Raises:
            DataError: there is nothing in it that can be read as pairs.
        """
        if any((self.path / name).is_file() for name in _SAVED) or any(map(_names_files, self._metadata())):
            return "hub"
        images = self.ending(*IMAGE_SUFFIXES)
        alone = config.labels or captionless
        counts = {
            "webdataset": len(self.ending(".tar")),
            "parquet": len(without_lists(self.ending(".parquet"))),
            "folder": len(images) if alone else _captioned(images, self.files, caption_endings(config)),
        }
        most = max(counts, key=lambda name: counts[name])
        if self._has_card() and (most == "parquet" or not counts[most]):
            return "hub"
        is_of_list = len(images) > counts[most] and not counts["folder"] and bool(self._lists())
        if not counts[most] or is_of_list:
            raise DataError(f"the folder {self.path} {self._what_to_do(images)}")
        return most

    def _metadata(self) -> list[Path]:
        return [file for file in self.files if file.name in _METADATA]

    def _lists(self) -> list[Path]:
        """Files that may be lists of pairs."""
        return sorted(file for file in self.ending(*_LISTS) if not file.name.endswith(STATISTICS))

    def _has_card(self) -> bool:
        """Whether the folder has a data card as on the hub, which starts with a block of YAML."""
        card = self.path / "README.md"
        return card.is_file() and card.read_bytes()[:4].strip() == b"---"

    def _what_to_do(self, images: list[Path]) -> str:
        """What is said of a folder without pairs."""
        kinds = sorted({file.suffix.lower() for file in self.ending(*UNREAD_IMAGES)})
        if kinds and not images:
            return f"holds images of a kind that is not read ({', '.join(kinds)}); save them as JPEG or PNG"
        missing = "holds images without captions beside them" if images else "holds no tar, Parquet or image files"
        stems = {image.with_suffix("") for image in images}
        beside = {file.suffix for file in self.files if file.with_suffix("") in stems} - {one.suffix for one in images}
        if beside:
            missing += f" (if they are in {', '.join(sorted(beside)[:8])}, name it with caption_column)"
        for suffixes, remedy in (
            (_LISTS, "give the path of the list"),
            (ARCHIVES, "unpack it"),
            ((".tfrecord",), "TFRecord files are not read: let img2dataset write webdataset, files or parquet"),
            ((".parquet",), "it lists images that are not there: let img2dataset download them"),
        ):
            found = self._lists() if suffixes == _LISTS else sorted(self.ending(*suffixes))
            if found:
                first = found[0].relative_to(self.path)
                return f"{missing}, but {first}{f' and {len(found) - 1} like it' if found[1:] else ''}; {remedy}"
        hint = f"; give labels if the folders of the images are their classes; {CAPTIONS_ELSEWHERE}" if images else ""
        return f"{missing}; give the path of the file with the captions{hint}"


def note_aside(folder: Path, read: str, skips: Skips) -> None:
    """List the files of a folder that could be pairs, and that are not read beside those of another kind.

    Args:
        folder: the folder; any other source has nothing aside.
        read: ending of the files that are read.
        skips: takes what is not read.
    """
    if not folder.is_dir():
        return
    tree = Tree.of(folder)
    aside = [
        *tree.ending(*{".tar", *ARCHIVES, *IMAGE_SUFFIXES} - {read}),
        *without_lists(tree.ending(*{".parquet"} - {read})),
    ]
    for suffix, count in sorted(Counter(file.suffix.lower() for file in aside).items()):
        skips.note(
            str(folder), f"{count} files *{suffix}: not read beside the *{read}; open them by a path of their own"
        )


def _captioned(images: Iterable[Path], files: Iterable[Path], endings: Iterable[str]) -> int:
    """How many images have a file of captions of their name."""
    stems = Counter(name for image in images for name in (os.path.splitext(image)[0], str(image)))  # noqa: PTH122
    texts = (str(file) for file in files)
    owned = {
        stem
        for text in texts
        for ending in (*endings, ".json")
        if text.lower().endswith(ending) and (stem := text[: -len(ending)]) in stems
    }
    return sum(stems[stem] for stem in owned)


def _names_files(metadata: Path) -> bool:
    """Whether a file called as the `datasets` library has it is the list of the images around it."""
    if not metadata.is_file():  # a pipe would be waited for
        return False
    try:
        if metadata.suffix == ".parquet":
            return "file_name" in pq.read_schema(metadata).names
        with metadata.open("rb") as file:
            return b"file_name" in file.read(_HEAD)
    except (pa.ArrowInvalid, OSError):
        return False
