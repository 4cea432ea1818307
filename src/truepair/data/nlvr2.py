"""A torch dataset of statements about two images, and their batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.dataset import Visit
from truepair.data.nlvr2_batch import Nlvr2Batch
from truepair.data.nlvr2_source import Nlvr2Table
from truepair.data.task_images import TaskImages, stack_images
from truepair.data.transforms import ImageTransform


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
        """Read the statements of a batch, all of one epoch; each image is decoded once."""
        epochs, indices = zip(*(visit if isinstance(visit, Visit) else (0, visit) for visit in visits), strict=True)
        rows = [self.table.statements[int(index)] for index in indices]
        pairs = [(row["left"], row["right"]) for row in rows]
        pixels = self._images.read(epochs[0], (image for pair in pairs for image in pair))
        return [
            Nlvr2Sample(
                int(index), pair, row["sentence"], row["label"], tuple(pixels[i] for i in pair) if pixels else ()
            )
            for index, row, pair in zip(indices, rows, pairs, strict=True)
        ]


class Nlvr2Collator:
    """Makes an `Nlvr2Batch` of samples.

    Args:
        encode: tokenization of statements: that of the captions the model was trained with.
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
