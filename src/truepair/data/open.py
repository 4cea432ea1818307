"""One function that opens image-text pairs in any known format."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from truepair.data.detect import detect_format
from truepair.data.formats.albef import AlbefReader
from truepair.data.formats.coco import CocoReader
from truepair.data.formats.delimited import DelimitedReader
from truepair.data.formats.folder import FolderReader
from truepair.data.formats.hub import HubReader
from truepair.data.formats.jsonl import JsonlReader
from truepair.data.formats.karpathy import KarpathyReader
from truepair.data.formats.parquet import ParquetReader, SampleReader
from truepair.data.formats.record import Reader
from truepair.data.formats.webdataset import WebDatasetReader
from truepair.data.source import SourceConfig
from truepair.data.store.cache import cached_rows
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError
from truepair.spelling import nearest

READERS: dict[str, Callable[[SourceConfig], Reader]] = {
    "sample": SampleReader,
    "albef": AlbefReader,
    "karpathy": KarpathyReader,
    "coco": CocoReader,
    "jsonl": JsonlReader,
    "delimited": DelimitedReader,
    "webdataset": WebDatasetReader,
    "parquet": ParquetReader,
    "folder": FolderReader,
    "hub": HubReader,
}
"""Reader of each format, by the name that ``SourceConfig.format`` takes."""


def open_pairs(source: str | Path | SourceConfig, **options: Any) -> PairTable:
    """Open image-text pairs.

    The source is read once into an Arrow file and memory-mapped; the next time, unless its files have changed, at once.

    Args:
        source: "sample" for the bundled pairs; the path of a file or folder; a pattern of shards; a data set on the
            hub; or a ``SourceConfig``.
        **options: fields of ``SourceConfig``, such as ``split="train"`` or ``image_root="photos"``.

    Returns:
        The table; ``table.skipped`` lists what was left out.

    Raises:
        ConfigError: an unknown option or format.
        DataError: the source cannot be read as pairs.
    """
    config = _config(source, options)
    reader = READERS[_format(config)](config)
    rows, skipped = cached_rows(reader, config)
    table = PairTable(rows, config.name or config.path.stem or config.source, skipped)
    return table if config.split is None else table.split(config.split)


def _config(source: str | Path | SourceConfig, options: dict[str, Any]) -> SourceConfig:
    known = [field.name for field in fields(SourceConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"open_pairs has no option '{name}'{nearest(name, known)}; give {', '.join(known)}")
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    if isinstance(source, SourceConfig):
        return replace(source, **plain)
    return SourceConfig(source=str(source), **plain)


def _format(config: SourceConfig) -> str:
    if config.format == "auto":
        return detect_format(config.source, config.path)
    if config.format not in READERS:
        raise ConfigError(f"unknown format '{config.format}'; give auto, {', '.join(READERS)}")
    path = config.path
    if config.format not in ("sample", "hub", "webdataset", "parquet") and not path.exists():
        raise DataError(f"no such file or folder: {config.source}; check the path")
    return config.format
