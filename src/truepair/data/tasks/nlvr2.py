"""Statements about two images: files, tables, dataset and batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.formats.record import Skips
from truepair.data.table import PairTable
from truepair.data.tasks.base import (
    StrictBatch,
    TaskImagePaths,
    TaskImages,
    existing,
    first_of,
    first_repeated,
    read_entries,
    require_enough,
    split_visits,
    stack_images,
    table_of_rows,
    unwrapped,
)
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.sampling.batches import Visit

_LABELS = {"true": 1, "1": 1, "1.0": 1, "false": 0, "0": 0, "0.0": 0}

_SENTENCE = ("sentence", "caption", "statement", "hypothesis", "text", "sent")

_IDENTIFIER = ("identifier", "id", "uid")

_SIDES = (
    ("left_img", "right_img"),
    ("left_image", "right_image"),
    ("img_left", "img_right"),
    ("image_left", "image_right"),
    ("left", "right"),
    ("image0", "image1"),
    ("image_0", "image_1"),
    ("img0", "img1"),
    ("image1", "image2"),
)  # of a statement's two images, as lists name them

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
        statements: ``train.json``, ``dev.json`` or ``test1.json`` of the official data; or a JSON list or JSON Lines of
            sentence, label and two images, as the ALBEF line and MaRVL have them.
        image_root: folder of the images, where the paths of a list start. An image of the official data lies at
            ``train/<directory>/train-10171-0-img0.png`` within it, or ``dev/dev-0-0-img0.png``.
        allow_outside_root: accept image paths that leave ``image_root``; only for files you trust.
    """

    statements: str
    image_root: str
    allow_outside_root: bool = False


@dataclass(frozen=True)
class Nlvr2Table:
    """Statements and the images they are about.

    Attributes:
        images: one row a distinct image.
        statements: columns identifier, left and right (rows of ``images``), sentence, label (1 true, 0 false, -1
            unknown).
        skipped: place and reason of what was left out.
        unreadable: rows of images that cannot be read; no statement is about them.
    """

    images: PairTable
    statements: datasets.Dataset
    skipped: tuple[tuple[str, str], ...] = ()
    unreadable: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.statements)

    @property
    def rows(self) -> datasets.Dataset:
        """The statements."""
        return self.statements

    def without(self, unreadable: Iterable[int]) -> "Nlvr2Table":
        """The statements about the other images.

        Args:
            unreadable: rows of images.
        """
        lost = frozenset(unreadable)
        sides = zip(self.statements["left"], self.statements["right"], strict=True)
        kept = [row for row, pictures in enumerate(sides) if lost.isdisjoint(pictures)]
        return replace(self, statements=self.statements.select(kept), unreadable=lost)

    def labelled(self) -> "Nlvr2Table":
        """The statements of which it is known whether they are true."""
        known = [row for row, label in enumerate(self.statements["label"]) if label >= 0]
        return self if len(known) == len(self) else replace(self, statements=self.statements.select(known))


def open_nlvr2(sources: Sequence[Nlvr2Source]) -> Nlvr2Table:
    """Open statements; several sources become one table.

    An entry that cannot be used is left out and listed. A statement without an identifier gets one of file and place.

    Raises:
        DataError: a file or most of it cannot be read as statements, an image path leaves its root, or more than a few
            images are missing.
    """
    images = TaskImagePaths(
        " and ".join(Path(source.statements).name for source in sources) or "an empty list of sources"
    )
    rows: list[_Statement] = []
    skipped: list[tuple[str, str]] = []
    for source in sources:
        skips = Skips()
        own = list(_statements(source, images, skips))
        images.require_enough()
        require_enough(skips, len(own), Path(source.statements).name)
        rows += own
        skipped += skips.entries
    table = table_of_rows(rows, _SCHEMA)
    twice = first_repeated(row.identifier for row in rows)
    if twice is not None:
        raise DataError(f"{images.what} has an identifier twice, {twice}; each statement needs one of its own")
    return Nlvr2Table(images.table(), table, tuple(skipped))


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


def _statements(source: Nlvr2Source, images: TaskImagePaths, skips: Skips) -> Iterator[_Statement]:
    path = existing(source.statements)
    content, part = read_entries(path)
    content = unwrapped(content)
    if not isinstance(content, list) or not content:  # one line of JSON Lines
        content, part = [content], "line"
    root = Path(source.image_root).expanduser()
    for number, entry in enumerate(content, 1):
        if entry is None:
            continue
        where = f"{path.name} {part} {number}"
        try:
            read = _read(entry)
            left, right = (images.add(root, image, outside=source.allow_outside_root) for image in read.images)
        except ValueError as reason:
            skips.row(where, str(reason))
            continue
        yield _Statement(read.identifier or f"{path.parent.name}/{where}", left, right, read.sentence, read.label)


class _Read(NamedTuple):
    """An entry of a file, its images by their paths; the identifier is empty where it states none."""

    identifier: str
    images: tuple[str, str]
    sentence: str
    label: int


def _read(entry: Any) -> _Read:
    """Read an entry.

    Raises:
        ValueError: it cannot be used; says why.
    """
    if isinstance(entry, ValueError):
        raise ValueError(f"is not JSON ({entry}); repair or delete it")
    if not isinstance(entry, dict):
        raise ValueError(f"has no identifier or no sentence but is {entry!r:.40}; repair or delete it")
    sentence, identifier = first_of(entry, _SENTENCE), first_of(entry, _IDENTIFIER)
    named = identifier if isinstance(identifier, str) else "" if identifier is None else str(identifier)
    images = _stated_images(entry)
    if not isinstance(sentence, str) or not sentence.strip() or (not named and images is None):
        raise ValueError("has no identifier or no sentence, or no two images; repair or delete it")
    return _Read(named, images or _official_images(named, entry.get("directory")), sentence, _label(entry.get("label")))


def _label(stated: Any) -> int:
    """1 for true, 0 for false, -1 for unknown.

    Raises:
        ValueError: it is something else.
    """
    if stated is None or stated == "" or stated in (-1, "-1"):
        return -1
    word = str(stated).strip().lower()
    if word not in _LABELS:
        raise ValueError(f"has a bad label: label is {stated!r}; it must be True or False, 1 or 0, or absent")
    return _LABELS[word]


def _stated_images(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The paths of both images as a list states them; None where it leaves them to the identifier.

    Raises:
        ValueError: there are not two.
    """
    stated = entry.get("images")
    if stated is None:
        sides = next((names for names in _SIDES if all(name in entry for name in names)), None)
        if sides is None:
            return None
        stated = [entry[name] for name in sides]
    if isinstance(entry.get("identifier"), str) and all(isinstance(p, str) and "." not in p for p in stated):
        return None  # LXMERT's names of features, not files
    if not isinstance(stated, list) or len(stated) != 2 or not all(isinstance(p, str) and p.strip() for p in stated):
        raise ValueError(f"has no two images but {stated!r:.60}; repair or delete it")
    return stated[0], stated[1]


def _official_images(identifier: str, directory: Any) -> tuple[str, str]:
    """Where the two images of a statement lie: ``split-set-pair-sentence`` names the files, but for the sentence.

    Raises:
        ValueError: the identifier is of another form.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise ValueError(f"names no images, and its identifier is '{identifier}'; it must read split-set-pair-sentence")
    folder = parts[0] if directory is None else f"{parts[0]}/{directory}"
    left, right = (f"{folder}/{'-'.join(parts[:3])}-img{side}.png" for side in (0, 1))
    return left, right
