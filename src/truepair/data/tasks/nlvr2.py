"""Statements about two images: files, tables, dataset and batches."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.table import PairTable
from truepair.data.tasks.base import (
    StrictBatch,
    TaskImagePaths,
    TaskImages,
    split_visits,
    stack_images,
    table_of_rows,
)
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.sampling.batches import Visit

_LABELS = {"True": 1, "False": 0}

_SCHEMA = pa.schema(
    [
        ("identifier", pa.string()),
        ("left", pa.int64()),
        ("right", pa.int64()),
        ("sentence", pa.string()),
        ("label", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Nlvr2Source:
    """One file of statements.

    Attributes:
        statements: JSON Lines file: ``train.json``, ``dev.json`` or ``test1.json`` of the official data.
        image_root: folder of the images. An image lies at ``train/<directory>/train-10171-0-img0.png`` within it, or
            ``dev/dev-0-0-img0.png``.
    """

    statements: str
    image_root: str


@dataclass(frozen=True)
class Nlvr2Table:
    """Statements and the images they are about.

    Attributes:
        images: one row a distinct image.
        statements: columns identifier, left and right (rows of ``images``), sentence, label (1 true, 0 false, -1
            unknown).
    """

    images: PairTable
    statements: datasets.Dataset

    def __len__(self) -> int:
        return len(self.statements)


def open_nlvr2(sources: Sequence[Nlvr2Source]) -> Nlvr2Table:
    """Open statements; several sources become one table.

    Raises:
        DataError: a file cannot be read as statements, or images are missing.
    """
    images = TaskImagePaths(
        " and ".join(Path(source.statements).name for source in sources) or "an empty list of sources"
    )
    rows = [row for source in sources for row in _statements(source, images)]
    table = table_of_rows(rows, _SCHEMA)
    if len(set(table["identifier"])) < len(table):
        raise DataError(f"{images.what} has an identifier twice; each statement needs one of its own")
    return Nlvr2Table(images.table(), table)


class Nlvr2Sample(NamedTuple):
    """One statement.

    Attributes:
        row: its row.
        images: rows of its left and right image.
        statement: as its source states it.
        label: 1 true, 0 false, -1 unknown.
        pixels: of the two images, [3, H, W] each; empty without a transform.
    """

    row: int
    images: tuple[int, int]
    statement: str
    label: int
    pixels: tuple[Tensor, ...]


class Nlvr2Dataset(Dataset[Nlvr2Sample]):
    """The statements of a table. ``dataset[Visit(epoch, index)]`` is a pure function of seed, epoch and statement.

    Args:
        table: from `open_nlvr2`.
        transform: image to tensor; None where image states come from a cache.
        seed: seed of the run.
    """

    def __init__(self, table: Nlvr2Table, transform: ImageTransform | None = None, *, seed: int = 0) -> None:
        self.table = table
        self._images = TaskImages(table.images, transform, seed=seed)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, visit: Visit | int) -> Nlvr2Sample:
        """Read one statement.

        Raises:
            IndexError: no such statement.
            BadImageError: one of its images cannot be read.
        """
        return self.__getitems__([visit])[0]

    def __getitems__(self, visits: Sequence[Visit | int]) -> list[Nlvr2Sample]:
        """Read the statements of a batch, all of one epoch; each image is decoded once.

        Raises:
            IndexError: no such row.
            BadImageError: an image cannot be read.
        """
        epoch, indices = split_visits(visits)
        rows = [self.table.statements[index] for index in indices]
        pairs = [(row["left"], row["right"]) for row in rows]
        pixels = self._images.read(epoch, (image for pair in pairs for image in pair))
        return [
            Nlvr2Sample(index, pair, row["sentence"], row["label"], tuple(pixels[i] for i in pair) if pixels else ())
            for index, row, pair in zip(indices, rows, pairs, strict=True)
        ]


@dataclass(frozen=True)
class Nlvr2Batch(StrictBatch):
    """B statements about pairs of I distinct images. An image that several statements are about is there once.

    Attributes:
        pixel_values: images, float32 [I, 3, H, W]; None where the dataset has no transform.
        image_index: rows of the images in the dataset's table of images, int64 [I].
        image_rows: left and right image of each statement among the I, int64 [B, 2].
        input_ids: tokens of the statements, int64 [B, L], padded on the right.
        attention_mask: 1 at tokens and 0 at padding, int64 [B, L].
        labels: 1 where the statement is true, 0 where it is false, int64 [B]; -1 where unknown.
        index: rows of the statements in the dataset, int64 [B].
        statements: as their source states them.
    """

    pixel_values: Tensor | None  # [I, 3, H, W]
    image_index: Tensor  # [I]
    image_rows: Tensor  # [B, 2]
    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L]
    labels: Tensor  # [B]
    index: Tensor  # [B]
    statements: list[str]

    def __len__(self) -> int:
        return len(self.statements)

    @property
    def texts(self) -> list[str]:
        """The statements."""
        return self.statements


class Nlvr2Collator:
    """Makes an `Nlvr2Batch` of samples.

    Args:
        encode: tokens and mask [B, L] of B statements: the tokenization of the captions the model was trained with.
    """

    def __init__(self, encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]]) -> None:
        self.encode = encode

    def __call__(self, samples: Sequence[Nlvr2Sample]) -> Nlvr2Batch:
        """Collate the samples of one batch."""
        pixels = {i: p for sample in samples for i, p in zip(sample.images, sample.pixels, strict=False)}
        image_index, places, pixel_values = stack_images((i for sample in samples for i in sample.images), pixels)
        input_ids, attention_mask = self.encode([sample.statement for sample in samples])
        return Nlvr2Batch(
            pixel_values=pixel_values,
            image_index=image_index,
            image_rows=places.view(-1, 2),
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=torch.tensor([sample.label for sample in samples]),
            index=torch.tensor([sample.row for sample in samples]),
            statements=[sample.statement for sample in samples],
        )


class _Statement(NamedTuple):
    """One statement as its source states it; the label is -1 where it is unknown."""

    identifier: str
    left: int
    right: int
    sentence: str
    label: int


def _statements(source: Nlvr2Source, images: TaskImagePaths) -> Iterator[_Statement]:
    path = Path(source.statements).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    root = Path(source.image_root).expanduser()
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _statement(line, f"{path.name} line {number}", root, images)


def _statement(line: str, where: str, root: Path, images: TaskImagePaths) -> _Statement:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); repair or delete it") from None
    identifier, sentence = (entry.get(n) if isinstance(entry, dict) else None for n in ("identifier", "sentence"))
    if not isinstance(identifier, str) or not isinstance(sentence, str) or not sentence.strip():
        raise DataError(f"{where} has no identifier or no sentence; repair or delete it")
    label = entry.get("label")
    if label is not None and str(label) not in _LABELS:
        raise DataError(f"{where}: label is {label!r}; it must be True or False, or absent")
    left, right = (images.add(root, path) for path in _image_paths(identifier, entry.get("directory"), where))
    return _Statement(identifier, left, right, sentence, -1 if label is None else _LABELS[str(label)])


def _image_paths(identifier: str, directory: Any, where: str) -> list[str]:
    """Where the two images of a statement lie: ``split-set-pair-sentence`` names the files, but for the sentence."""
    parts = identifier.split("-")
    if len(parts) != 4:
        raise DataError(f"{where}: identifier is '{identifier}'; it must read split-set-pair-sentence")
    folder = parts[0] if directory is None else f"{parts[0]}/{directory}"
    return [f"{folder}/{'-'.join(parts[:3])}-img{side}.png" for side in (0, 1)]
