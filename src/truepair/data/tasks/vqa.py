"""Questions about images: dataset and batches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from truepair.data.tasks.base import StrictBatch, TaskImages, split_visits, stack_images
from truepair.data.tasks.vqa_source import VqaTable
from truepair.data.tokens import tokenize_captions
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.relations.text import UNSTATED, normalise_answer
from truepair.sampling.batches import Visit


class VqaSample(NamedTuple):
    """One question.

    Attributes:
        question_id: of the source.
        image: row of its image.
        question: as its source states it.
        answers: distinct answers as `trained_answers` has them, the most frequent first; none where they are unknown.
        weights: of the answers: the share of people who gave each, times the weight of the source.
        pixels: of the image [3, H, W]; None without a transform.
        row: its row.
        choices: the answers among which it asks; none of most data.
    """

    question_id: int
    image: int
    question: str
    answers: list[str]
    weights: list[float]
    pixels: Tensor | None
    row: int
    choices: tuple[str, ...] = ()


def trained_answers(answers: Sequence[str], *, exact: bool) -> Counter[str]:
    """How many people gave each answer to a question; those that the data do not state are left out.

    Args:
        answers: as people wrote them.
        exact: leave them so, but for spaces around them, as the evaluation of A-OKVQA compares them; otherwise they are
            normalised as that of VQA does it.
    """
    counts: Counter[str] = Counter()
    for answer, count in Counter(answers).items():
        if answer != UNSTATED:
            plain = answer.strip() if exact else normalise_answer(answer) or answer.lower().strip()
            counts[plain] += count
    return counts


def frequent_answers(table: VqaTable, least: int) -> list[str]:
    """The answers that at least so many people gave to the questions of a table, the most frequent first.

    Raises:
        DataError: there is none.
    """
    counts: Counter[str] = Counter()
    rows = table.questions
    for question, answers in zip(rows["question_id"], rows["answers"], strict=True):
        counts.update(trained_answers(answers, exact=question in table.choices))
    found = sorted((one for one, count in counts.items() if count >= least), key=lambda one: (-counts[one], one))
    if not found:
        raise DataError(
            f"no training answer was given {least} times, and there is none to choose from; lower "
            "data.least_answers, or name a list as data.answers"
        )
    return found


class VqaDataset(Dataset[VqaSample]):
    """The questions of a table. ``dataset[Visit(epoch, index)]`` is a pure function of seed, epoch and question.

    Args:
        table: from `open_vqa`.
        transform: image to tensor; None where image states come from a cache.
        seed: seed of the run.
    """

    def __init__(self, table: VqaTable, transform: ImageTransform | None = None, *, seed: int = 0) -> None:
        self.table = table
        self._images = TaskImages(table.images, transform, seed=seed)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, visit: Visit | int) -> VqaSample:
        """Read one question.

        Raises:
            IndexError: no such question.
            BadImageError: its image cannot be read.
        """
        return self.__getitems__([visit])[0]

    def __getitems__(self, visits: Sequence[Visit | int]) -> list[VqaSample]:
        """Read the questions of a batch, all of one epoch; each image is decoded once.

        Raises:
            IndexError: no such row.
            BadImageError: an image cannot be read.
        """
        epoch, indices = split_visits(visits)
        rows = [self.table.questions[index] for index in indices]
        pixels = self._images.read(epoch, (row["image"] for row in rows))
        return [self._sample(index, row, pixels.get(row["image"])) for index, row in zip(indices, rows, strict=True)]

    def _sample(self, index: int, row: dict[str, Any], pixels: Tensor | None) -> VqaSample:
        given: list[str] = row["answers"]
        choices = self.table.choices.get(row["question_id"])
        counts = trained_answers(given, exact=choices is not None)
        answers = sorted(counts, key=lambda answer: (-counts[answer], answer))
        weights = [row["weight"] * counts[answer] / len(given) for answer in answers]
        return VqaSample(
            row["question_id"],
            row["image"],
            row["question"],
            answers,
            weights,
            pixels,
            index,
            () if choices is None else choices.texts,
        )


@dataclass(frozen=True)
class VqaBatch(StrictBatch):
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
        choices: the answers among which each asks, for Q questions; none of most data.
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
    choices: list[tuple[str, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def texts(self) -> list[str]:
        """The questions."""
        return self.questions


class VqaCollator:
    """Makes a `VqaBatch` of samples.

    Args:
        encode: tokens and mask [Q, L] of Q questions: the tokenization of the captions the model was trained with.
        tokenizer: of the model; answers are start token, text, end token.
        max_answer_length: most tokens of an answer, start and end included.
        vocabulary: the tokens that the decoder knows, by their places in it; answers with others are left out of a
            batch. None: it knows all, by their own numbers.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_answer_length: int = 12,
        vocabulary: "AnswerVocabulary | None" = None,
    ) -> None:
        self.encode = encode
        self.tokenizer = tokenizer
        self.max_answer_length = max_answer_length
        self.vocabulary = vocabulary

    def __call__(self, samples: Sequence[VqaSample]) -> VqaBatch:
        """Collate the samples of one batch."""
        pixels = {sample.image: sample.pixels for sample in samples if sample.pixels is not None}
        image_index, image_rows, pixel_values = stack_images((sample.image for sample in samples), pixels)
        input_ids, attention_mask = self.encode([sample.question for sample in samples])
        answers = [answer for sample in samples for answer in sample.answers]
        ids, mask = self.encode_answers(answers)
        rows = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.answers]).long()
        weights = torch.tensor([weight for sample in samples for weight in sample.weights])
        known = torch.ones(len(ids), dtype=torch.bool)
        if self.vocabulary is not None:
            known, ids = self.vocabulary.known(ids, mask), self.vocabulary.places(ids)
        return VqaBatch(
            pixel_values=pixel_values,
            image_index=image_index,
            image_rows=image_rows,
            input_ids=input_ids,
            attention_mask=attention_mask,
            question_id=torch.tensor([sample.question_id for sample in samples]),
            answer_ids=ids[known],
            answer_mask=mask[known],
            answer_rows=rows[known],
            answer_weights=weights[known],
            index=torch.tensor([sample.row for sample in samples]),
            questions=[sample.question for sample in samples],
            choices=[sample.choices for sample in samples],
        )

    def encode_answers(self, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask of some answers, int64 [A, T] each, from start to end token."""
        if not answers:
            return torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
        return tokenize_captions(self.tokenizer, answers, max_length=self.max_answer_length)

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Tokens of each answer after the start token, the end token last: what an `AnswerTrie` is made of.

        They are numbered as in the vocabulary, if there is one; -1 for those it lacks.
        """
        ids, mask = self.encode_answers(answers)
        ids = ids if self.vocabulary is None else self.vocabulary.places(ids)
        return [row[1:length] for row, length in zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True)]


class AnswerVocabulary:
    """A part of a tokenizer's vocabulary. A decoder over it alone is many times smaller and faster.

    Args:
        tokens: V tokens of the tokenizer, the padding first; a token's new number is its place.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self._places = torch.full((max(tokens) + 1,), -1)
        self._places[torch.tensor(self.tokens)] = torch.arange(len(self.tokens))

    @classmethod
    def of_answers(cls, input_ids: Tensor, attention_mask: Tensor, padding: int) -> "AnswerVocabulary":
        """The tokens of some answers.

        Args:
            input_ids: tokens of the answers, start and end included, int64 [A, T].
            attention_mask: 1 at tokens and 0 at padding, [A, T].
            padding: the padding token.
        """
        used = input_ids[attention_mask.bool()].unique().tolist()
        return cls([padding, *(token for token in used if token != padding)])

    def __len__(self) -> int:
        return len(self.tokens)

    def places(self, input_ids: Tensor) -> Tensor:
        """Numbers of some tokens [...] here, int64 [...]; -1 for those that are not part of it."""
        places = self._places.to(input_ids.device)
        return torch.where(input_ids < len(places), places[input_ids.clamp(max=len(places) - 1)], -1)

    def known(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Whether all tokens of an answer [A, T] are part of it, bool [A]."""
        return ((self.places(input_ids) >= 0) | ~attention_mask.bool()).all(dim=1)
