"""Statements about two images as a batch."""

from dataclasses import dataclass

from torch import Tensor

from truepair.data.tensor_batch import TensorBatch


@dataclass(frozen=True)
class Nlvr2Batch(TensorBatch):
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

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered: those that were asked for, since an unreadable image is an error."""
        return self.index

    @property
    def reasons(self) -> list[str]:
        """Why rows were substituted: none was."""
        return [""] * len(self)
