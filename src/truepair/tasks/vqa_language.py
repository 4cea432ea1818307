"""Questions about images that the language model of a BLIP-2 answers: trained on answers, written by beam search."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from truepair.data.caption_check import check_captions
from truepair.data.left_out import LeftOut
from truepair.data.tasks.vqa import VqaSample, frequent_answers, trained_answers
from truepair.data.tasks.vqa_language import QUESTION, LanguageVqaBatch, LanguageVqaCollator
from truepair.data.tasks.vqa_source import VqaTable, load_answer_list
from truepair.errors import ConfigError
from truepair.evaluation.aokvqa import GivenAnswer
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.language_preprocessing import LanguagePreprocessing
from truepair.relations.text import normalise_answer
from truepair.tasks.downstream import Split, with_data
from truepair.tasks.language_start import load_language_start
from truepair.tasks.vqa_questions import QuestionTask, training_questions
from truepair.tasks.vqa_recipe import VqaRecipe


class LanguageVqaTask(QuestionTask):
    """Questions about images, answered by what a language model writes, and by the likeliest of their own choices.

    Args:
        recipe: with its data filled in.
        model: a BLIP-2 with a language model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the files.

    Raises:
        ConfigError: settings that mean nothing to a language model, or leave no room for an answer.
    """

    model: Blip2LanguageModel
    preprocessing: LanguagePreprocessing

    def __init__(
        self, recipe: VqaRecipe, model: Blip2LanguageModel, preprocessing: LanguagePreprocessing, left_out: LeftOut
    ) -> None:
        _require_fitting(recipe)
        length = recipe.model.max_length or model.longest  # a batch is as long as its longest text
        if length > model.longest:
            raise ConfigError(f"model.max_length is {length}, but the language model reads {model.longest}")
        super().__init__(recipe, model, preprocessing.prompted(recipe.prompt).reading(length), left_out)
        self._collate = LanguageVqaCollator(self.preprocessing.encode, recipe.prompt)

    @classmethod
    def from_checkpoint(cls, recipe: VqaRecipe, left_out: LeftOut) -> "LanguageVqaTask":
        """Build the task's model on the checkpoint, and the language model, that the recipe names."""
        _require_fitting(recipe)
        recipe = with_data(recipe)
        model, preprocessing = load_language_start(
            recipe.model, lambda: _corpus(recipe), recipe.loop.seed, left_out.say
        )
        return cls(recipe, model, preprocessing, left_out)

    def read(self, split: Split) -> VqaTable:
        """The questions of a split, see `QuestionTask.read`.

        Raises:
            DataError: see there.
            ConfigError: a question leaves no room for an answer.
        """
        table = super().read(split)
        questions = [self.recipe.prompt.replace(QUESTION, question.strip()) for question in set(self.texts(table))]
        longest = max(map(len, self.preprocessing.tokenization.before(questions)), default=0)
        room = self.preprocessing.max_length - self.recipe.max_answer_length
        if longest > room:
            raise ConfigError(
                f"data.{split}: the longest question has {longest} tokens with its prompt, and max_length "
                f"({self.preprocessing.max_length}) leaves {room} beside an answer of max_answer_length "
                f"({self.recipe.max_answer_length}); raise model.max_length"
            )
        return table

    def collate(self, samples: Sequence[VqaSample]) -> LanguageVqaBatch:
        """Make a batch of questions."""
        return self._collate(samples)

    def lost_words(self) -> list[str]:
        """What the tokenizer loses of the training questions, a line each."""
        read = self.preprocessing
        check, _ = check_captions(replace(read.tokenization, prompt=""), read.max_length, self.texts(self._train))
        return check.lines(length="model.max_length", tokenizer="give another language model", captions=self.texts_name)

    def answer(self, batch: LanguageVqaBatch, images: Tensor, texts: Tensor) -> list[GivenAnswer]:
        """What the language model writes behind each of Q questions; and the likeliest of its choices, if it has some.

        Args:
            batch: The questions.
            images: Image states [I, N, W].
            texts: Not read.
        """
        ids, mask = self.preprocessing.encode_prompts(batch.prompts)
        written = self.model.write(
            images,
            batch.question_images,
            ids.to(images.device),
            mask.to(images.device),
            beams=self.recipe.beams,
            max_length=self.recipe.max_answer_length,
            length_penalty=self.recipe.length_penalty,
        )
        said = self.preprocessing.decode(written)
        if not all(batch.choices):
            return [GivenAnswer(normalise_answer(answer)) for answer in said]
        chosen = self._choose(batch, images)
        return [GivenAnswer(_plain(answer), choice) for answer, choice in zip(said, chosen, strict=True)]

    @torch.inference_mode()
    def _choose(self, batch: LanguageVqaBatch, images: Tensor) -> list[str]:
        """The likeliest of each question's choices, its end counted in."""
        rows = torch.tensor([row for row, choices in enumerate(batch.choices) for _ in choices], device=images.device)
        choices = [text for choices in batch.choices for text in choices]
        tokens = self.preprocessing.encode(choices, [batch.prompts[row] for row in rows.tolist()])
        likely = self.model.log_likelihoods(
            images, batch.question_images[rows], *(part.to(images.device) for part in tokens)
        )  # [C]
        parts = likely.split([len(own) for own in batch.choices])
        return [own[int(part.argmax())] for own, part in zip(batch.choices, parts, strict=True)]

    def known_answers(self) -> list[str]:
        """The answers of the list, if there is one, or else all that are trained on."""
        if self.recipe.data.answers:
            return load_answer_list(self.recipe.data.answers)
        return frequent_answers(training_questions(self.recipe.data), 1)


def _plain(answer: str) -> str:
    """An answer as A-OKVQA's people write theirs: in lower case, without a full stop."""
    return answer.strip().lower().removesuffix(".").strip()


def _corpus(recipe: VqaRecipe) -> Iterator[str]:
    """The training texts: questions in their prompts, and answers."""
    table = training_questions(recipe.data)
    rows = table.questions
    for number, question, answers in zip(rows["question_id"], rows["question"], rows["answers"], strict=True):
        yield recipe.prompt.replace(QUESTION, question.strip())
        yield from trained_answers(answers, exact=number in table.choices)


def _require_fitting(recipe: VqaRecipe) -> None:
    """Refuse settings that mean nothing to a language model.

    Raises:
        ConfigError: there is one.
    """
    if recipe.similarity_weight:
        raise ConfigError("similarity_weight is for a list of answers, and a language model writes its own; drop it")
    if recipe.model.language is not None and recipe.model.language.prompt is not None:
        raise ConfigError("model.language.prompt is of captions; that of questions is 'prompt'; give it there")
