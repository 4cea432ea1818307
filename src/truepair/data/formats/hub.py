"""Data sets of the ``datasets`` library: on the hub, in a folder laid out for it, or written by ``save_to_disk``."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DownloadMode,
    Features,
    Image,
    Value,
    config,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import HF_HUB_CACHE

from truepair.checked import tell
from truepair.data.formats.record import STATED_FIELDS, Entries, Reader, Skips, in_runs
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_in_name, split_of_folder
from truepair.errors import DataError

# What the library raises on a name that is not there, without a network, and on damaged files of its own.
_FAILURES = (
    DatasetsError,
    pa.ArrowException,
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
)

_ROWS_AT_ONCE = 1000

_BYTES_AT_ONCE = 64 << 20


class HubReader(Reader):
    """Reads all splits of a data set; "validation" is called "val" as everywhere here. Code on the hub is never run.

    The image column is the one of type Image, or one with a usual name that holds paths or bytes. Columns with a
    table's own names are taken over; further scalar columns become text. Labels that the data set has names for become
    those names.
    """

    source_kind = "name"

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._splits = _load(source)
        caches = [file["filename"] for rows in self._splits.values() for file in rows.cache_files]
        self.files = [Path(name) for name in caches]
        self.roots = [source.path] if source.path.is_dir() else [Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)]

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further scalar columns of the first split."""
        features = next(iter(self._splits.values())).features
        known = {*STATED_FIELDS, "image", "captions", *self._columns(features)}
        return tuple(name for name, kind in features.items() if name not in known and isinstance(kind, Value))

    def named_split(self, file: Path) -> str | None:
        """Split that the name of a folder of rows without splits speaks of."""
        return split_of_folder(self.config.path) if self.config.path.is_dir() else None

    def records(self, skips: Skips) -> Iterator[Entries]:
        """Read the rows of all splits in order.

        Raises:
            DataError: there is no image or caption column.
        """
        return in_runs(self._entries(skips))

    def _entries(self, skips: Skips) -> Iterator[tuple[Entries, int, dict[str, Any]] | None]:
        for split, rows in self._splits.items():
            image_name, caption_name = self._columns(rows.features)
            if isinstance(rows.features[image_name], Image):
                rows = rows.cast_column(image_name, Image(decode=False))
            wanted = [
                name for name in rows.column_names if name in {image_name, caption_name, *STATED_FIELDS, *self.extra}
            ]
            common = Entries(
                f"{split} row".strip(),
                image_name,
                caption_name,
                self.extra,
                lines=self.has_lines(caption_name),
                key=f"{split or 'train'}:",
                split=(split_in_name(split) or split) if split else None,
            )
            kind = rows.features.get(caption_name)
            unlabelled = 0
            for first, some in _some_rows(rows.select_columns(wanted)):
                for number, entry in enumerate(some, first):
                    if isinstance(kind, ClassLabel):
                        if entry[caption_name] in (None, -1):
                            unlabelled += 1
                            continue
                        entry[caption_name] = kind.int2str(entry[caption_name])
                    yield common, number, entry
                del some  # pictures that these hold are not kept while the next ones are read
                yield None
            if unlabelled:
                skips.note(split or self.config.source, f"{unlabelled} images have no label")

    def _columns(self, features: Features) -> tuple[str, str]:
        images = tuple(name for name, kind in features.items() if isinstance(kind, Image))
        labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)] if self.config.labels else []
        return self.pair_columns(features, self.config.source, images, labels)


def _some_rows(rows: Dataset) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The rows, some at a time and their bytes bounded, with the number of the first of these.

    One at a time, as the library itself goes through them, they would take many times as long.
    """
    start = 0
    for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
        parts = [table]
        while parts:
            part = parts.pop()
            if len(part) > 1 and part.nbytes > _BYTES_AT_ONCE:
                parts += [part.slice(len(part) // 2), part.slice(0, len(part) // 2)]
                continue
            columns = rows.features.decode_batch(part.to_pydict())
            yield start, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            start += len(part)


def _load(source: SourceConfig) -> dict[str, Dataset]:
    """Splits by name; rows that were saved without one have an empty one.

    The library maps the files of its cache without a look at them, and a damaged one could end the process. So what
    they say of themselves is checked first; files that are damaged are made again from what was downloaded.

    Raises:
        DataError: there is no such data set, or it is damaged itself.
    """
    saved = any((source.path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        try:
            return _sound(_opened(source, saved, DownloadMode.REUSE_DATASET_IF_EXISTS))
        except _FAILURES as error:
            if saved or isinstance(error, ConnectionError | DatasetsError):
                raise
            made = _sound(_opened(source, saved, DownloadMode.REUSE_CACHE_IF_EXISTS))
            tell(f"{source.source} was damaged in the cache of the datasets library, and was made again")
            return made
    except _FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"no file {source.source} here, and the datasets library cannot load it ({reason:.200}); check the name "
            "and the network, or give the path of a local copy; if it could be loaded before, delete what "
            f"{config.HF_DATASETS_CACHE} holds of it"
        ) from None


def _opened(source: SourceConfig, saved: bool, mode: DownloadMode) -> dict[str, Dataset]:
    if saved:
        loaded = load_from_disk(str(source.path))
    elif source.path.is_dir():
        loaded = load_dataset(str(source.path), download_mode=mode)
    else:
        name, _, configuration = source.source.partition(":")
        loaded = load_dataset(name, configuration or None, download_mode=mode)
    return dict(loaded) if isinstance(loaded, DatasetDict) else {str(loaded.split or ""): loaded}


def _sound(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """The splits, when no file of theirs would lead Arrow astray.

    Raises:
        ValueError: one would.
    """
    for rows in splits.values():
        rows.data.validate(full=True)
    return splits
