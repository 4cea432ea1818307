"""Questions about images as a batch."""

from dataclasses import dataclass

from torch import Tensor

from truepair.data.tensor_batch import TensorBatch


@dataclass(frozen=True)
class VqaBatch(TensorBatch):
    """Q questions about I distinct images, with A answers. An image that several questions are about is there once.

    Attributes:
        pixel_values: images, float32 [I, 3, H, W]; None where the dataset has no transform.
        image_index: rows of the images in the dataset's table of images, int64 [I].
        image_rows: the image of each question among the I, int64 [Q].
        input_ids: tokens of the questions, int64 [Q, L], padded on the right.
        attention_mask: 1 at tokens and 0 at padding, int64 [Q, L].
        question_id: int64 [Q].
        answer_ids: tokens of the answers, from start to end token, int64 [A, T].
        answer_mask: as ``attention_mask``, int64 [A, T].
        answer_rows: the question of each answer, int64 [A].
        answer_weights: of each answer, float32 [A].
        index: rows of the questions in the dataset, int64 [Q].
        questions: the questions as their source states them.
    """

    pixel_values: Tensor | None  # [I, 3, H, W]
    image_index: Tensor  # [I]
    image_rows: Tensor  # [Q]
    input_ids: Tensor  # [Q, L]
    attention_mask: Tensor  # [Q, L]
    question_id: Tensor  # [Q]
    answer_ids: Tensor  # [A, T]
    answer_mask: Tensor  # [A, T]
    answer_rows: Tensor  # [A]
    answer_weights: Tensor  # [A]
    index: Tensor  # [Q]
    questions: list[str]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def texts(self) -> list[str]:
        """The questions."""
        return self.questions

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered: those that were asked for, since an unreadable image is an error."""
        return self.index

    @property
    def reasons(self) -> list[str]:
        """Why rows were substituted: none was."""
        return [""] * len(self)
