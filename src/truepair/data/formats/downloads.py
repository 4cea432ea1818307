"""What img2dataset leaves beside the images that it fetched: a Parquet file for each shard, which lists them all."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.data.formats.record import Skips
from truepair.data.formats.shards import names_of

URL_NAMES = frozenset(("url", "image_url"))

STATISTICS = "_stats.json"
"""Ending of what it writes about each shard."""

DONE = "success"
"""The status of an image that was fetched."""


def is_list_of_downloads(file: Path) -> bool:
    """Whether a Parquet file is such a list and holds no images itself."""
    return _lists_urls(file, with_status=not _is_beside_its_images(file))


def without_lists(files: Sequence[Path]) -> list[Path]:
    """The Parquet files of a folder that are no such lists; few are opened, for there may be thousands."""
    found = [file for file in files if not _is_beside_its_images(file)]
    mixed = any(_lists_urls(file) for file in (*found[:1], *found[-1:]))
    return [file for file in found if not _lists_urls(file)] if mixed else found


def _is_beside_its_images(file: Path) -> bool:
    return any(file.with_suffix(ending).exists() for ending in ("", ".tar", ".tfrecord"))


def _lists_urls(file: Path, *, with_status: bool = True) -> bool:
    """Whether a file has URLs, perhaps whether they were fetched, and no column that could hold an image."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError):
        return False  # a reader says what is wrong with it
    holders = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
    has_images = any(holds(column.type) for column in schema for holds in holders)
    has_status = "status" in schema.names or not with_status
    return bool(URL_NAMES.intersection(schema.names)) and has_status and not has_images


def note_failed(lists: Iterable[Path], skips: Skips) -> None:
    """Count the images that could not be fetched, by the lists of them that are there."""
    there = [file for file in lists if file.is_file()]
    for file, name in zip(there, names_of(there), strict=True):
        try:
            status = pq.read_table(file, columns=["status"])["status"].to_pylist()
        except (pa.ArrowInvalid, KeyError, OSError):
            continue  # some other file of that name
        note_failures(name, status, skips)


def note_failures(name: str, status: Iterable[str | None], skips: Skips) -> None:
    """Tell how many of some downloads failed."""
    counts = Counter(status)
    failed = {why: count for why, count in counts.items() if why != DONE}
    if failed:
        kinds = ", ".join(f"{why} {count}" for why, count in sorted(failed.items(), key=str))
        skips.note(name, f"{sum(failed.values())} of {counts.total()} images were not downloaded ({kinds})")
