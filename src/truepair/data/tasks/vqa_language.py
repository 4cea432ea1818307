"""Questions about images as a language model reads them: each in a prompt, with each of its answers behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.data.tasks.base import StrictBatch, stack_images
from truepair.data.tasks.vqa import VqaSample

QUESTION = "{}"
"""Stands in a prompt for the question."""


@dataclass(frozen=True)
class LanguageVqaBatch(StrictBatch):
    """Q questions about I distinct images, with A answers, each of which is a text behind its question.

    Attributes:
        pixel_values: images, float32 [I, 3, H, W]; None where the dataset has no transform.
        image_index: rows of the images in the dataset's table of images, int64 [I].
        question_images: the image of each question among the I, int64 [Q].
        image_rows: the image of each answer among the I, int64 [A].
        input_ids: tokens of the questions in their prompts, each with an answer behind it, int64 [A, L], padded on the
            right.
        attention_mask: 1 at tokens and 0 at padding, int64 [A, L].
        written: True at the tokens of the answers and their ends, bool [A, L].
        weights: of the answers, float32 [A].
        index: rows of the questions in the dataset, int64 [Q].
        texts: the questions as their source states them.
        prompts: the same within their prompts.
        choices: the answers among which each asks, for Q questions; none of most data.
    """

    pixel_values: Tensor | None  # [I, 3, H, W]
    image_index: Tensor  # [I]
    question_images: Tensor  # [Q]
    image_rows: Tensor  # [A]
    input_ids: Tensor  # [A, L]
    attention_mask: Tensor  # [A, L]
    written: Tensor  # [A, L]
    weights: Tensor  # [A]
    index: Tensor  # [Q]
    texts: list[str]
    prompts: list[str]
    choices: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.texts)


class LanguageVqaCollator:
    """Makes a `LanguageVqaBatch` of samples.

    Args:
        encode: tokens, mask and what is written, [A, L] each, of A answers behind their prompts.
        prompt: what a language model reads of a question, with `QUESTION` where the question stands.
    """

    def __init__(
        self, encode: Callable[[Sequence[str], Sequence[str]], tuple[Tensor, Tensor, Tensor]], prompt: str
    ) -> None:
        self.encode = encode
        self.prompt = prompt

    def __call__(self, samples: Sequence[VqaSample]) -> LanguageVqaBatch:
        """Collate the samples of one batch."""
        pixels = {sample.image: sample.pixels for sample in samples if sample.pixels is not None}
        image_index, question_images, pixel_values = stack_images((sample.image for sample in samples), pixels)
        prompts = [self.prompt.replace(QUESTION, sample.question.strip()) for sample in samples]
        rows = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.answers]).long()  # [A]
        answers = [answer for sample in samples for answer in sample.answers]
        ids, mask, written = self._encode(answers, [prompts[row] for row in rows.tolist()])
        return LanguageVqaBatch(
            pixel_values=pixel_values,
            image_index=image_index,
            question_images=question_images,
            image_rows=question_images[rows],
            input_ids=ids,
            attention_mask=mask,
            written=written,
            weights=torch.tensor([weight for sample in samples for weight in sample.weights]),
            index=torch.tensor([sample.row for sample in samples]),
            texts=[sample.question for sample in samples],
            prompts=prompts,
            choices=[sample.choices for sample in samples],
        )

    def _encode(self, answers: Sequence[str], prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        if not answers:  # of test questions
            none = torch.zeros(0, 1, dtype=torch.int64)
            return none, none, none.bool()
        return self.encode(answers, prompts)
