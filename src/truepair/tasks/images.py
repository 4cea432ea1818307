"""The pictures of a table for evaluation: pixels, or states of a frozen encoder from its cache."""

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader

from truepair.data.collate import PairCollator
from truepair.data.dataset import PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.errors import ConfigError
from truepair.models.frozen_images import ImageStates


class ImageSource:
    """Batches of a table's pictures in row order, unaugmented.

    Args:
        table: the pictures.
        collator: makes batches of samples.
        transform: evaluation transform; not needed with a cache.
        cache: states of the table's pictures, row by row.
        batch_size: pictures a batch.

    Raises:
        ConfigError: neither a transform nor a cache is given.
    """

    def __init__(
        self,
        table: PairTable,
        collator: PairCollator,
        *,
        transform: ImageTransform | None = None,
        cache: ImageStates | None = None,
        batch_size: int = 64,
    ) -> None:
        if transform is None and cache is None:
            raise ConfigError("pictures need a transform to read them with, or a cache of their states")
        self.table = table
        self.collator = collator
        self.transform = transform
        self.cache = cache
        self.batch_size = batch_size

    @property
    def are_states(self) -> bool:
        """Whether the batches are states [B, N, W] rather than pixels [B, 3, H, W]."""
        return self.cache is not None

    def batches(self) -> Iterator[Tensor]:
        """Yield the pictures, batch by batch.

        Raises:
            BadImageError: a picture cannot be read; a substitute would make the figures wrong.
        """
        if self.cache is not None:
            for start in range(0, len(self.table), self.batch_size):
                yield self.cache[start : start + self.batch_size]
            return
        dataset = PairDataset(self.table, self.transform, captions="first", substitutes=0)
        for batch in DataLoader(dataset, batch_size=self.batch_size, collate_fn=self.collator):
            yield batch.pixel_values
