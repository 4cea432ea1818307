"""One function that opens any source: what it is, and which reader reads it."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from truepair.data.contents import Contents, check_identity
from truepair.data.formats.classes import ClassFolderReader
from truepair.data.formats.delimited import DelimitedReader
from truepair.data.formats.folder import FolderReader
from truepair.data.formats.hub import HubReader
from truepair.data.formats.json import AlbefReader, CocoReader, JsonlReader, KarpathyReader, json_format
from truepair.data.formats.json_stream import is_json_list
from truepair.data.formats.parquet import ParquetReader, SampleReader
from truepair.data.formats.record import IMAGE_SUFFIXES, Reader
from truepair.data.formats.shards import is_pattern
from truepair.data.formats.trees import ARCHIVES, Tree
from truepair.data.formats.webdataset import WebDatasetReader
from truepair.data.images import what_else
from truepair.data.source import SourceConfig
from truepair.data.store.cache import cached_rows
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError, nearest

_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?")

READERS: dict[str, type[Reader]] = {
    "sample": SampleReader,
    "albef": AlbefReader,
    "karpathy": KarpathyReader,
    "coco": CocoReader,
    "jsonl": JsonlReader,
    "delimited": DelimitedReader,
    "webdataset": WebDatasetReader,
    "parquet": ParquetReader,
    "folder": FolderReader,
    "classes": ClassFolderReader,
    "hub": HubReader,
}
"""Reader of each format, by the name that ``SourceConfig.format`` takes."""


def open_pairs(
    source: str | Path | SourceConfig, *, identity: str = "bytes", captionless: bool = False, **options: Any
) -> PairTable:
    """Open image-text pairs.

    The source is read once into an Arrow file and memory-mapped; the next time, unless its files have changed, at once.
    Whether the files of its pictures are there is looked at each time, and by ``bytes`` those that are new are hashed.

    Args:
        source: "sample" for the bundled pairs; the path of a file or folder; a pattern of shards; a data set on the
            hub; or a ``SourceConfig``.
        identity: which rows show one picture: those of one image id ("id"), or also those of one file ("file"), or also
            those of equal bytes ("bytes").
        captionless: a picture without a caption is a row, too, with no captions; otherwise it is left out.
        **options: fields of ``SourceConfig``, such as ``split="train"`` or ``image_root="photos"``.

    Returns:
        The table; ``table.skipped`` lists what was left out.

    Raises:
        ConfigError: an unknown option or format.
        DataError: the source cannot be read as pairs.
    """
    check_identity(identity)
    config = source_config(source, **options)
    reader = READERS[_format(config, captionless)](config)
    reader.captionless = captionless
    stored = cached_rows(reader, config)
    images = stored.rows.select_columns(["image"]).with_format("arrow")[:].column("image")
    memory = None if config.cache_check == "bytes" else stored.folder / "contents.i64"
    contents = Contents.of_images(images, identity, memory)
    table = PairTable(stored.rows, config.title, stored.skipped, split_origins=stored.split_origins, contents=contents)
    return table if config.split is None else table.split(config.split)


def source_config(source: str | Path | SourceConfig, **options: Any) -> SourceConfig:
    """A source with options.

    Raises:
        ConfigError: an unknown option.
    """
    known = [field.name for field in fields(SourceConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"open_pairs has no option '{name}'{nearest(name, known)}; give {', '.join(known)}")
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    if isinstance(source, SourceConfig):
        return replace(source, **plain)
    return SourceConfig(source=str(source), **plain)


def _format(config: SourceConfig, captionless: bool) -> str:
    if config.format == "auto":
        detected = _detect_format(config, captionless)
        return "classes" if config.labels and detected == "folder" else detected
    if config.format not in READERS:
        raise ConfigError(f"unknown format '{config.format}'; give auto, {', '.join(READERS)}")
    if READERS[config.format].source_kind == "path":
        if not config.path.exists():
            raise DataError(f"no such file or folder: {config.source}; check the path")
        _require_no_pipe(config)
    return config.format


def _require_no_pipe(config: SourceConfig) -> None:
    """Refuse what is neither file nor folder: a source is read several times, and a pipe waits for its writer.

    Raises:
        DataError: it is a pipe, a socket or a device.
    """
    if config.path.exists() and not config.path.is_dir() and (other := what_else(config.path)):
        raise DataError(f"{config.source} is {other}, not a file; write what comes from it to a file, and give that")


def _detect_format(config: SourceConfig, captionless: bool) -> str:
    """Name of the format of a source, by its name and content."""
    source, path = config.source, config.path
    if source == "sample":
        return "sample"
    if path.is_dir():
        return Tree.of(path).format(config, captionless=captionless)
    _require_no_pipe(config)
    suffix = path.suffix.lower()
    by_suffix = {ending: name for name, reader in READERS.items() for ending in reader.suffixes}
    if suffix in ARCHIVES and (path.is_file() or is_pattern(path)):
        raise DataError(
            f"{source} is an archive; unpack it, and give the file or folder that was in it{_unpacking(path)}"
        )
    if path.is_file():
        if suffix == ".json":
            return json_format(path, config.encoding, captionless=captionless)
        if suffix in JsonlReader.suffixes and is_json_list(path, config.encoding):
            return "albef"
        if suffix in by_suffix:
            return by_suffix[suffix]
        if suffix in IMAGE_SUFFIXES:
            raise DataError(f"{source} is a picture; give the folder that it is in, or a list of files")
        raise DataError(f"the ending of {source} does not tell its format; give format")
    if is_pattern(path) and suffix in by_suffix and READERS[by_suffix[suffix]].source_kind == "files":
        return by_suffix[suffix]
    if _HUB_NAME.fullmatch(source) and suffix not in {*by_suffix, ".json"}:
        return "hub"
    raise DataError(f"no such file or folder: {source}; check the path")


def _unpacking(path: Path) -> str:
    """How to unpack an archive, where there is one usual way."""
    name, stem = path.name.lower(), path.name.partition(".")[0]
    if name.endswith(".zip"):
        return f" (unzip {path.name} -d {stem})"
    if name.endswith(".tar.gz"):
        return f" (gunzip {path.name}, and give the tar, if it is a WebDataset)"
    return ""
