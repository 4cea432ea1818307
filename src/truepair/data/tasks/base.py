"""What the data of all downstream tasks share: batches, tables of rows, and images found by name and decoded once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from truepair.data.pairs import PairDataset, TensorBatch
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.randomness import stable_hash
from truepair.sampling.batches import Visit


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
    return distinct, places, torch.stack([pixels[row] for row in distinct.tolist()]) if pixels else None


class TaskImagePaths:
    """Collects the distinct images of a task, in order of their first use.

    Args:
        what: names the images in messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._rows: dict[str, int] = {}
        self._ids: list[int] = []

    def add(self, root: Path, relative: str) -> int:
        """Row of an image.

        Args:
            root: folder of the images.
            relative: path within it. The image's id is a hash of this alone, so that data may move.
        """
        path = str(root / relative)
        row = self._rows.setdefault(path, len(self._rows))
        if row == len(self._ids):
            self._ids.append(stable_hash("image", relative))
        return row

    def table(self) -> PairTable:
        """One row an image, each with an empty caption.

        Raises:
            DataError: no images, the first of them is missing, or two images in different folders have one name.
        """
        if not self._rows:
            raise DataError(f"{self.what} names no images; check the file")
        paths = list(self._rows)
        if not Path(paths[0]).is_file():
            raise DataError(f"image {paths[0]} of {self.what} is missing; check image_root and the pattern of names")
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
