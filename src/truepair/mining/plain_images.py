"""Unaugmented images of a training table, for judges that read the image rather than its crop."""

import torch
from torch import Tensor

from truepair.data.dataset import PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform


class PlainImages:
    """Reads images by their rows.

    Args:
        table: the table that batches are drawn from; ``PairBatch.source_index`` numbers its rows.
        transform: the judge's own evaluation transform.
    """

    def __init__(self, table: PairTable, transform: ImageTransform) -> None:
        self._dataset = PairDataset(table, transform, captions="first", substitutes=0)

    def __call__(self, rows: Tensor) -> Tensor:
        """Pixels of rows [R], float32 [R, 3, H, W] on the CPU.

        Raises:
            BadImageError: an image cannot be read.
        """
        return torch.stack([sample["pixel_values"] for sample in self._dataset.__getitems__(rows.tolist())])
