"""Telling the format of a source by its name and its first bytes."""

import os
import re
from itertools import islice
from pathlib import Path

from truepair.data.formats.record import IMAGE_SUFFIXES
from truepair.data.formats.shards import is_pattern
from truepair.errors import DataError

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".tar": "webdataset",
    ".parquet": "parquet",
}
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
# Files that mark a folder as laid out for the `datasets` library.
_HUB_FILES = ("README.md", "dataset_dict.json", "state.json", "metadata.jsonl", "metadata.csv", "metadata.parquet")
_FOLDER_FILES = 10_000
_CHUNK = 1 << 20


def detect_format(source: str, path: Path) -> str:
    """Name of the format of a source.

    Args:
        source: as the user gave it.
        path: the same as a path.

    Raises:
        DataError: there is no such source, or no format fits it.
    """
    if source == "sample":
        return "sample"
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".json":
            return _of_json(path)
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
        raise DataError(f"the ending of {source} does not tell its format; give format")
    if is_pattern(path) and suffix in (".tar", ".parquet"):
        return _SUFFIXES[suffix]
    if _HUB_NAME.fullmatch(source) and suffix not in {*_SUFFIXES, ".json"}:
        return "hub"
    raise DataError(f"no such file or folder: {source}; check the path")


def _of_folder(path: Path) -> str:
    if any((path / name).is_file() for name in _HUB_FILES):
        return "hub"
    names = (name for _, _, names in os.walk(path) for name in names)
    suffixes = {Path(name).suffix.lower() for name in islice(names, _FOLDER_FILES)}
    for suffix in (".tar", ".parquet"):
        if suffix in suffixes:
            return _SUFFIXES[suffix]
    if suffixes & IMAGE_SUFFIXES:
        return "folder"
    raise DataError(
        f"the folder {path} holds no tar, Parquet or image files; give the path of the file with the captions"
    )


def _of_json(path: Path) -> str:
    """ALBEF's is a list; Karpathy's an object with "sentences", COCO's one with "annotations"."""
    tail = b""
    with path.open("rb") as file:
        chunk = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf")
        if chunk.lstrip().startswith(b"["):
            return "albef"
        while chunk:
            # Within a JSON text a quote would be escaped, so these are keys.
            found = re.search(rb'"(sentences|annotations)"\s*:', tail + chunk)
            if found:
                return "karpathy" if found[1] == b"sentences" else "coco"
            tail = chunk[-64:]
            chunk = file.read(_CHUNK)
    raise DataError(
        f"{path} is neither a JSON list of pairs nor in the layout of Karpathy or COCO; give format, or repair it"
    )
