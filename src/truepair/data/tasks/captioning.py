"""Captions of images: what is read of pairs, dataset and batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Dataset as Samples

from truepair.data.identity import shared_pictures
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig, Tables, build_tables, open_held
from truepair.data.table import PairTable
from truepair.data.tasks.base import StrictBatch, TaskImages, split_visits, stack_images
from truepair.data.transforms import ImageTransform
from truepair.errors import ConfigError
from truepair.randomness import stable_hash
from truepair.sampling.batches import Visit
from truepair.settings import Natural, PartShare, Share, check_settings

_SCHEMA = pa.schema([("image", pa.int64()), ("captions", pa.list_(pa.string()))])


@dataclass(frozen=True, kw_only=True)
class CaptionDataConfig:
    """Where pictures and their captions come from: any pairs, as in pre-training.

    Attributes:
        sources: files, folders or hub names; "sample" is the bundled sample. Splits are those that rows state, or else
            those that files and folders are named for.
        train: sources to train on, instead of ``sources``: all their rows, whatever splits they state.
        validation: sources for validation figures, all their rows; instead of the validation split of ``sources``.
        test: sources whose pictures are captioned in the end, all their rows; instead of the test split of ``sources``.
            They need no captions: a folder of photos, a list of files, COCO's ``image_info_test2014.json``. Ids of a
            single source stand in the results as it states them.
        validation_share: share of the training pictures that validates where nothing else does.
        test_share: share of the training pictures that is tested on where nothing else is.
        train_split: split to train on; empty for all rows.
        validation_split: split for validation figures; empty for none.
        test_split: split whose pictures are captioned in the end; empty for none.
        identity: which rows show one picture, whose captions are then references of one picture: those of one image id
            ("id"), or also those of one file, whatever its path ("file"), or also those whose files are equal byte by
            byte ("bytes").
        max_bad_fraction: largest share of missing pictures, and of rows of a source that cannot be used.
        train_pictures: train on the captions of this many pictures, drawn by a hash of their ids; 0 for all.
        validation_pictures: caption this many between epochs, drawn alike; 0 for all.
        test_pictures: caption this many in the end, drawn alike; 0 for all.
    """

    sources: list[str | SourceConfig] | None = None
    train: list[str | SourceConfig] | None = None
    validation: list[str | SourceConfig] | None = None
    test: list[str | SourceConfig] | None = None
    validation_share: PartShare = 0.0
    test_share: PartShare = 0.0
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    identity: str = "bytes"
    max_bad_fraction: Share = 0.05
    train_pictures: Natural = 0
    validation_pictures: Natural = 0
    test_pictures: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self, "data")
        for role in ("validation", "test"):
            if getattr(self, role) is not None and getattr(self, f"{role}_share"):
                raise ConfigError(f"data.{role} and data.{role}_share both give {role} pictures; give one of them")

    def open(self, *, training: bool = True) -> Tables:
        """All pairs by split.

        Sources that a field gives to a split of its own are read for themselves, so that their ids stay as they are.

        Args:
            training: there must be pairs to train on; otherwise ``train`` may be empty, and ``test`` all that is named.

        Raises:
            ConfigError: no source is named, or a field with an unusable value.
            DataError: a source cannot be read, or nothing is left to train on.
        """
        common = DataConfig(identity=self.identity, max_bad_fraction=self.max_bad_fraction)
        given = {role: sources for role in ("validation", "test") if (sources := getattr(self, role)) is not None}
        opened = {
            role: open_held(replace(common, **{role: sources}), role, captionless=role == "test")
            for role, sources in given.items()
            if training or role == "test"
        }
        if not training and "test" in opened:
            test, notes = opened["test"]
            named = self.sources is not None or self.train is not None
            if not named or not test.caption_count:
                if named:
                    notes.append("the training pairs, whose captions baselines copy, are not read: nothing is compared")
                return Tables(test.select([]), None, test, origin="by data.test", notes=tuple(notes))
        tables = build_tables(
            replace(
                common,
                sources=self.sources,
                train=self.train,
                validation_share=self.validation_share,
                test_share=self.test_share,
                train_split=self.train_split,
                validation_split=self.validation_split if self.validation is None else "",
                test_split=self.test_split if self.test is None else "",
            ),
            training=training,
        )
        for role, (held, notes) in opened.items():
            shared = shared_pictures(held, tables.train)
            if shared:
                notes.append(f"{shared:,} {role} pairs are of pictures that are trained on, which flatters the figures")
            tables = replace(tables, notes=(*tables.notes, *notes))
            tables = replace(tables, validation=held) if role == "validation" else replace(tables, test=held)
        return tables


@dataclass(frozen=True)
class CaptionTable:
    """Captions, or pictures to be captioned.

    Attributes:
        images: one row a picture.
        rows: columns image (row of ``images``) and captions: one caption to train on, or all captions of a picture that
            is to be captioned.
        training: a row is a caption; otherwise it is a picture, and its captions are for measuring alone.
        unreadable: rows of images that cannot be read; no row is about them.
    """

    images: PairTable
    rows: Dataset
    training: bool
    unreadable: frozenset[int] = frozenset()

    @classmethod
    def of(cls, pictures: PairTable, *, training: bool) -> Self:
        """The captions of a table with one row a picture, or its pictures."""
        of_pictures: list[list[str]] = pictures.values("captions")
        if training:
            cells = [(row, [text]) for row, captions in enumerate(of_pictures) for text in captions]
        else:
            cells = list(enumerate(of_pictures))
        columns = {
            "image": pa.array([row for row, _ in cells], pa.int64()),
            "captions": pa.array([captions for _, captions in cells], pa.list_(pa.string())),
        }
        return cls(pictures, Dataset(pa.table(columns, schema=_SCHEMA)), training)

    def __len__(self) -> int:
        return len(self.rows)

    def without(self, unreadable: Iterable[int]) -> "CaptionTable":
        """The rows about the other pictures.

        Args:
            unreadable: rows of images.
        """
        lost = frozenset(unreadable)
        kept = [row for row, image in enumerate(self.rows["image"]) if image not in lost]
        return replace(self, rows=self.rows.select(kept), unreadable=lost)


def part_of_pictures(pictures: PairTable, count: int) -> PairTable:
    """A part of the pictures of a table, drawn by a hash of their ids; 0 for all."""
    if not count or count >= len(pictures):
        return pictures
    ids = pictures.image_ids.tolist()
    order = sorted(range(len(ids)), key=lambda row: stable_hash("part of pictures", ids[row]))
    return pictures.select(sorted(order[:count]))


class CaptionSample(NamedTuple):
    """One caption, or one picture to be captioned.

    Attributes:
        image: row of its image.
        caption: as its source states it; empty of a picture that is to be captioned.
        pixels: of the image [3, H, W]; None without a transform.
        row: its row.
    """

    image: int
    caption: str
    pixels: Tensor | None
    row: int


class CaptionDataset(Samples[CaptionSample]):
    """The rows of a table. ``dataset[Visit(epoch, index)]`` is a pure function of seed, epoch and row.

    Args:
        table: captions or pictures.
        transform: image to tensor; None where image states come from a cache.
        seed: seed of the run.
    """

    def __init__(self, table: CaptionTable, transform: ImageTransform | None = None, *, seed: int = 0) -> None:
        self.table = table
        self._images = TaskImages(table.images, transform, seed=seed)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, visit: Visit | int) -> CaptionSample:
        """Read one row.

        Raises:
            IndexError: no such row.
            BadImageError: its image cannot be read.
        """
        return self.__getitems__([visit])[0]

    def __getitems__(self, visits: Sequence[Visit | int]) -> list[CaptionSample]:
        """Read the rows of a batch, all of one epoch; each image is decoded once.

        Raises:
            IndexError: no such row.
            BadImageError: an image cannot be read.
        """
        epoch, indices = split_visits(visits)
        rows = [self.table.rows[index] for index in indices]
        pixels = self._images.read(epoch, (row["image"] for row in rows))
        captions = [row["captions"][0] if self.table.training else "" for row in rows]
        return [
            CaptionSample(row["image"], caption, pixels.get(row["image"]), index)
            for index, row, caption in zip(indices, rows, captions, strict=True)
        ]


@dataclass(frozen=True)
class CaptionBatch(StrictBatch):
    """B captions of I distinct images. An image with several captions is there once.

    Attributes:
        pixel_values: images, float32 [I, 3, H, W]; None where the dataset has no transform.
        image_index: rows of the images in the dataset's table of images, int64 [I].
        image_rows: the image of each caption among the I, int64 [B].
        input_ids: tokens of the captions from start to end token, int64 [B, L], padded on the right.
        attention_mask: 1 at tokens and 0 at padding, int64 [B, L].
        index: rows of the captions in the dataset, int64 [B].
        texts: the captions as their source states them.
        written: True at the tokens that are learned, bool [B, L]; absent where that is each but the first.
    """

    pixel_values: Tensor | None  # [I, 3, H, W]
    image_index: Tensor  # [I]
    image_rows: Tensor  # [B]
    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L]
    index: Tensor  # [B]
    texts: list[str] = field(default_factory=list)
    written: Tensor | None = None  # [B, L]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def learned(self) -> int:
        """How many tokens are learned, over which the loss is the mean."""
        learned = self.attention_mask[:, 1:] if self.written is None else self.written
        return int(learned.sum())


class CaptionCollator:
    """Makes a `CaptionBatch` of samples.

    Args:
        encode: tokens and mask [B, L] of B captions, from start to end token; and which of them are learned, if that is
            not each but the first.
    """

    def __init__(self, encode: Callable[[Sequence[str]], tuple[Tensor, ...]]) -> None:
        self.encode = encode

    def __call__(self, samples: Sequence[CaptionSample]) -> CaptionBatch:
        """Collate the samples of one batch."""
        pixels = {sample.image: sample.pixels for sample in samples if sample.pixels is not None}
        image_index, image_rows, pixel_values = stack_images((sample.image for sample in samples), pixels)
        captions = [sample.caption for sample in samples]
        input_ids, attention_mask, *written = self.encode(captions)
        return CaptionBatch(
            pixel_values=pixel_values,
            image_index=image_index,
            image_rows=image_rows,
            input_ids=input_ids,
            attention_mask=attention_mask,
            index=torch.tensor([sample.row for sample in samples]),
            texts=captions,
            written=written[0] if written else None,
        )
