"""Pixels of the images that the samples of a downstream task share."""

from collections.abc import Iterable

import torch
from torch import Tensor

from truepair.data.dataset import PairDataset, Visit
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform


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
