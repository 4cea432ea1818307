"""What the data of all downstream tasks share: batches, tables of rows, and images found by name and decoded once."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from truepair.data.formats.record import Skips
from truepair.data.pairs import PairDataset, TensorBatch, stacked
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.randomness import stable_hash
from truepair.sampling.batches import Visit

Value = TypeVar("Value")

_MOST_MISSING = 0.05  # of the images of a table; of pairs this is data.max_bad_fraction

MOST_SKIPPED = 0.5
"""Largest share of the entries of a file that may be left out; of a file with more, something else is wrong."""


_FIRST_PATHS = 16  # images of which one has to be there


class StrictBatch(TensorBatch):
    """A batch in which no row stands in for another: an image that cannot be read is an error."""

    index: Tensor  # rows of the samples in the dataset, int64 [B]

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered, int64 [B]: those that were asked for."""
        return self.index

    @property
    def reasons(self) -> list[str]:
        """Why rows were substituted: none was."""
        return [""] * len(self.index)

    @property
    def learned(self) -> int:
        """How many texts, or tokens of them, the loss is the mean over."""
        return len(self.index)


def existing(path: str | Path) -> Path:
    """A file, with ``~`` filled in.

    Raises:
        DataError: there is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"there is no file {file}; check the path")
    return file


def read_entries(path: Path) -> tuple[Any, str]:
    """The content of a file of one JSON value, or the lines of JSON Lines as a list; a mark of UTF-8 is passed over.

    A line that is not JSON stands in the list as the `ValueError` that says why, one without anything as None.

    Returns:
        The content, and what its parts are called in messages: "entry" or "line".
    """
    raw = path.read_bytes()
    text = raw.decode(json.detect_encoding(raw), errors="surrogateescape")
    if path.suffix not in (".jsonl", ".ndjson"):
        try:
            return json.loads(text), "entry"
        except (ValueError, RecursionError):
            pass  # lines of JSON, or none: what is wrong with which is said of each
    return [_parsed(line) if line.strip() else None for line in text.split("\n")], "line"


def unwrapped(content: Any) -> Any:
    """The list of entries that an object holds as ``data``, as TextVQA's files do; anything else as it is."""
    listed = content.get("data") if isinstance(content, dict) else None
    return listed if isinstance(listed, list) else content


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


def first_of(entry: Mapping[str, Any], names: Iterable[str]) -> Any:
    """What stands under the first of some names that an entry has and that is not null; None where there is none."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def first_repeated(values: Iterable[Value]) -> Value | None:
    """The first value that was there before; None where all differ."""
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def require_enough(skips: Skips, count: int, what: str) -> None:
    """Refuse a file of which most is left out.

    Args:
        skips: of the file.
        count: entries that were read.
        what: the file, for the message.

    Raises:
        DataError: more than `MOST_SKIPPED` of its entries are left out.
    """
    if skips.rows and skips.rows > MOST_SKIPPED * (count + skips.rows):
        where, why = skips.entries[0]
        raise DataError(
            f"{skips.rows:,} of {count + skips.rows:,} entries of {what} cannot be used; the first: {where} {why}"
        )


def table_of_rows(rows: Sequence[NamedTuple], schema: pa.Schema) -> Dataset:
    """Rows as a table whose columns are the fields of a row, in their order."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(list(column), type=field.type) for column, field in zip(columns, schema, strict=True)]
    return Dataset(pa.table(arrays, schema=schema))


def split_visits(visits: Sequence[Visit | int]) -> tuple[int, list[int]]:
    """The epoch that all visits of a batch share, 0 for bare row numbers, and their rows."""
    epochs, rows = zip(*(visit if isinstance(visit, Visit) else (0, visit) for visit in visits), strict=True)
    return epochs[0], [int(row) for row in rows]


class TaskImages:
    """Reads the images of a batch, each once, whatever number of its samples want it.

    The pixels of an image are a pure function of the seed, the epoch and the image.

    Args:
        table: the images.
        transform: image to tensor; None where states come from a cache.
        seed: seed of the run.
    """

    def __init__(self, table: PairTable, transform: ImageTransform | None, *, seed: int = 0) -> None:
        self._dataset = None if transform is None else PairDataset(table, transform, seed=seed, substitutes=0)

    def read(self, epoch: int, rows: Iterable[int]) -> dict[int, Tensor]:
        """Pixels [3, H, W] of some images, by row; nothing without a transform.

        Raises:
            BadImageError: an image cannot be read; another in its place would make questions about it wrong.
        """
        if self._dataset is None:
            return {}
        wanted = sorted(set(rows))
        samples = self._dataset.__getitems__([Visit(epoch, row) for row in wanted])
        return {row: sample["pixel_values"] for row, sample in zip(wanted, samples, strict=True)}


def stack_images(rows: Iterable[int], pixels: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The distinct images of a batch.

    Args:
        rows: the image each place of the batch wants, P of them.
        pixels: by row; empty where states come from a cache.

    Returns:
        Rows of the I distinct images, ascending [I]; the place of each wanted image among them [P]; and their pixels
        [I, 3, H, W], if there are any.
    """
    distinct, places = torch.tensor(list(rows), dtype=torch.int64).unique(return_inverse=True)
    return distinct, places, stacked([pixels[row] for row in distinct.tolist()]) if pixels else None


class MissingImageError(ValueError):
    """The image of an entry is not there."""


class TaskImagePaths:
    """Collects the distinct images of a task, in order of their first use, as far as they are there.

    Args:
        what: names the images in messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._rows: dict[str, int] = {}
        self._ids: list[int] = []
        self._missing: dict[str, None] = {}

    def add(self, root: Path, stated: str, *, outside: bool = False) -> int:
        """Row of an image.

        Args:
            root: folder of the images.
            stated: path within it. The image's id is a hash of this alone, so that data may move.
            outside: the path may leave the root, as with ``allow_outside_root`` of pairs.

        Raises:
            DataError: the path leaves the root, and may not.
            MissingImageError: there is no such file.
        """
        # os.path, because pathlib is several times slower and a task may have millions of questions.
        base = os.path.abspath(root)  # noqa: PTH100
        path = os.path.normpath(os.path.join(base, stated))  # noqa: PTH118
        inside = path.startswith(base.rstrip(os.sep) + os.sep)
        if not inside and not outside:
            raise DataError(
                f"{self.what}: image path {stated} leaves image_root {root}; give another image_root, or set "
                "allow_outside_root for a file you trust"
            )
        if path not in self._rows and (path in self._missing or not os.path.isfile(path)):  # noqa: PTH113 - as above
            self._missing[path] = None
            raise MissingImageError(f"its image {path} is missing")
        row = self._rows.setdefault(path, len(self._rows))
        if row == len(self._ids):
            self._ids.append(stable_hash("image", os.path.relpath(path, base) if inside else path))
        return row

    def require_enough(self) -> None:
        """Refuse to go on where more than a few images are missing; one may always be.

        Raises:
            DataError: they are.
        """
        missing, total = len(self._missing), len(self._missing) + len(self._rows)
        if missing > (max(1, _MOST_MISSING * total) if self._rows else 0):
            raise DataError(
                f"{missing:,} of {total:,} images of {self.what} are missing, over the limit of {_MOST_MISSING:.0%}, "
                f"such as {', '.join(list(self._missing)[:3])}; check image_root and the pattern of names"
            )

    def table(self) -> PairTable:
        """One row an image, each with an empty caption.

        Raises:
            DataError: no images, or two images in different folders have one name.
        """
        if not self._rows:
            raise DataError(f"{self.what} names no images; check the file")
        paths = list(self._rows)
        if len(set(self._ids)) < len(self._ids):
            raise DataError(f"{self.what} has images of one name under several roots; give them one image_root")
        return _table(paths, self._ids, self.what)


def _table(paths: Sequence[str], ids: Sequence[int], name: str) -> PairTable:
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([{"bytes": None, "path": path} for path in paths], type=cell),
        "image_id": pa.array(ids, type=pa.int64()),
        "captions": pa.array([[""]] * len(paths), type=pa.list_(pa.string())),
        "caption_ids": pa.array([[number] for number in ids], type=pa.list_(pa.int64())),
        "split": pa.array(["all"] * len(paths)),
    }
    return PairTable(Dataset(pa.table(columns)), name)
