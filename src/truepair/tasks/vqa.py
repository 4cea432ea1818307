"""Visual question answering: training on questions with weighted answers, and answering by ranking a list."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from truepair.data.left_out import LeftOut
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.tasks.vqa import AnswerVocabulary, VqaBatch, VqaCollator, VqaSample
from truepair.data.tasks.vqa_source import VqaTable
from truepair.evaluation.aokvqa import GivenAnswer
from truepair.methods.student import Say
from truepair.models.checkpoints.blip2_language import open_blip2_language
from truepair.models.checkpoints.load import load_model
from truepair.models.encoders.fingerprint import combined_key
from truepair.models.fusion.answers import AnswerTrie
from truepair.models.fusion.vqa import VqaModel
from truepair.models.open import blip2_stage
from truepair.tasks.downstream import Split, finetune, listing_in, with_data
from truepair.tasks.language_start import writes
from truepair.tasks.start import load_start
from truepair.tasks.vqa_language import LanguageVqaTask
from truepair.tasks.vqa_questions import QuestionTask, answer_list, training_questions
from truepair.tasks.vqa_recipe import VqaRecipe
from truepair.tasks.vqa_results import VqaResult


def finetune_vqa(recipe: VqaRecipe, run_folder: Path, say: Say) -> VqaResult | None:
    """Fine-tune on questions, and answer the test questions with the model that is left; see `finetune`.

    Raises:
        TruepairError: anything in recipe, data or checkpoint that does not fit, in one line.
    """
    left_out, checkpoint = listing_in(run_folder, say), recipe.model.checkpoint
    if checkpoint and blip2_stage(checkpoint):
        return finetune(LanguageVqaTask.from_checkpoint(recipe, left_out), recipe, run_folder, say)
    task = VqaTask.from_checkpoint(recipe, left_out)
    say(f"{len(task.answers):,} answers to choose from")
    return finetune(task, recipe, run_folder, say)


def evaluate_vqa(model_folder: Path, recipe: VqaRecipe, folder: Path, say: Say) -> VqaResult:
    """Answer the test questions of a recipe with a trained model; files go to ``folder``.

    Raises:
        TruepairError: anything in recipe, data or model that does not fit, in one line.
    """
    recipe = with_data(recipe)
    if writes(model_folder):
        return LanguageVqaTask(recipe, *open_blip2_language(model_folder), listing_in(folder, say)).evaluate(folder)
    model, preprocessing = load_model(VqaModel, model_folder), OwnPreprocessing.load(model_folder)
    return VqaTask(recipe, model, preprocessing, listing_in(folder, say)).evaluate(folder)


class VqaTask(QuestionTask):
    """Questions about images, answered by the likeliest answer of a list, and by the likeliest of their own choices.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the files.
    """

    model: VqaModel
    preprocessing: OwnPreprocessing

    def __init__(self, recipe: VqaRecipe, model: VqaModel, preprocessing: OwnPreprocessing, left_out: LeftOut) -> None:
        super().__init__(recipe, model, preprocessing, left_out)
        tokens = model.config.answer_tokens
        self._vocabulary = None if tokens is None else AnswerVocabulary(tokens)
        self._collate = _collator(recipe, preprocessing, self._vocabulary)
        # Answers are ranked by their tokens.
        stated = answer_list(recipe.data)
        known = self._known(stated)
        if len(known) < len(stated):
            count = len(stated) - len(known)
            self.say(
                f"left out: {count:,} of {len(stated):,} answers have tokens that the model's decoder does not know"
            )
        self.answers = list(known)
        self.trie = AnswerTrie(list(known.values()), self._place(preprocessing.tokenizer.cls_token_id))
        self._features: Tensor | None = None  # of the answers [A, E]

    @classmethod
    def from_checkpoint(cls, recipe: VqaRecipe, left_out: LeftOut) -> "VqaTask":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = with_data(recipe)
        start = load_start(recipe.model, recipe.loop.seed, left_out.say)
        fields = dict(recipe.model.options)
        if recipe.list_vocabulary:
            collator = _collator(recipe, start.preprocessing, None)
            choices = training_questions(recipe.data).choices.values()
            texts = dict.fromkeys([*answer_list(recipe.data), *(text for one in choices for text in one.texts)])
            ids, mask = collator.encode_answers(list(texts))
            padding = start.preprocessing.tokenizer.pad_token_id
            fields["answer_tokens"] = AnswerVocabulary.of_answers(ids, mask, padding).tokens
        return cls(recipe, VqaModel.from_albef(start.albef, **fields), start.preprocessing, left_out)

    def read(self, split: Split) -> VqaTable:
        """The questions of a split, see `QuestionTask.read`."""
        table = super().read(split)
        texts = sorted({text for one in table.choices.values() for text in one.texts})
        if split == "train" or not texts:
            return table
        lost = len(texts) - len(self._known(texts))
        if lost:
            self.say(
                f"data.{split}: {lost:,} of {len(texts):,} choices have tokens that the model's decoder does not know, "
                "and are not chosen; train with list_vocabulary: false"
            )
        room = self.recipe.max_answer_length - 2  # beside start and end
        rows = self.preprocessing.tokenizer(texts, add_special_tokens=False)["input_ids"]
        cut = sum(len(row) > room for row in rows)
        if cut:
            self.say(
                f"data.{split}: {cut:,} of {len(texts):,} choices have more than {room} tokens, and are compared by "
                "these; raise max_answer_length"
            )
        return table

    def collate(self, samples: Sequence[VqaSample]) -> VqaBatch:
        """Make a batch of questions."""
        return self._collate(samples)

    def _place(self, token: int) -> int:
        """Number of a token in the decoder's vocabulary."""
        return token if self._vocabulary is None else self._vocabulary.tokens.index(token)

    def contents(self) -> dict[str, str]:
        """What training reads, the list of answers among it; see `DownstreamTask.contents`."""
        return super().contents() | {"the list of answers": combined_key(answers=list(self.answers))}

    def prepare(self) -> None:
        """Compute the features of the answer list, where similarity has a say."""
        if not self.recipe.similarity_weight:
            return
        ids, mask = self.preprocessing.collator().encode(self.answers)
        parts = zip(ids.split(self.recipe.batch_size), mask.split(self.recipe.batch_size), strict=True)
        device = self.model.device
        features = [self.model.answer_features(tokens.to(device), part.to(device)) for tokens, part in parts]
        self._features = torch.cat(features)

    def answer(self, batch: VqaBatch, images: Tensor, texts: Tensor) -> list[GivenAnswer]:
        """The likeliest answer of the list to each of B questions; with ``generate``, what the decoder writes.

        Where they ask among choices, the likeliest of these as well.

        Args:
            batch: The questions.
            images: Image states [B, N, W].
            texts: States of the questions [B, L, W].
        """
        direct = self._write(batch, images, texts) if self.recipe.generate else self._rank(batch, images, texts)
        if not all(batch.choices):
            return [GivenAnswer(answer) for answer in direct]
        chosen = self._choose(batch, images, texts)
        return [GivenAnswer(answer, choice) for answer, choice in zip(direct, chosen, strict=True)]

    def _rank(self, batch: VqaBatch, images: Tensor, texts: Tensor) -> list[str]:
        """The likeliest answers of the list."""
        prior = None
        if self._features is not None:
            cosines = self.model.similarities(images, self._features)  # [I, A]
            prior = self.recipe.similarity_weight * cosines[batch.image_rows]  # [Q, A]
        candidates = self.recipe.candidates
        ranked = self.model.predict(batch, self.trie, images, texts, candidates=candidates, prior=prior)
        return [self.answers[number] for number in ranked.answers[:, 0].tolist()]

    def _choose(self, batch: VqaBatch, images: Tensor, texts: Tensor) -> list[str]:
        """The likeliest of each question's choices; the first where the decoder knows none of them."""
        known = self._known(dict.fromkeys(text for choices in batch.choices for text in choices))
        known = {text: row for text, row in known.items() if len(row) > 1}  # the end token alone is no answer
        if not known:
            return [choices[0] for choices in batch.choices]
        places = {text: place for place, text in enumerate(known)}
        own = torch.full((len(batch), len(known)), -torch.inf, device=self.model.device)  # [Q, A]
        for row, choices in enumerate(batch.choices):
            own[row, [places[text] for text in choices if text in places]] = 0.0
        trie = AnswerTrie(list(known.values()), self._place(self.preprocessing.tokenizer.cls_token_id))
        most = max(map(len, batch.choices))
        ranked = self.model.predict(batch, trie, images, texts, candidates=most, prior=own)
        best = zip(ranked.answers[:, 0].tolist(), ranked.scores[:, 0].isfinite().tolist(), strict=True)
        listed = list(known)
        return [
            listed[number] if own_one else choices[0]
            for (number, own_one), choices in zip(best, batch.choices, strict=True)
        ]

    def _known(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Those of some answers that the decoder knows all tokens of, and these."""
        listed = list(texts)
        rows = zip(listed, self._collate.answer_tokens(listed), strict=True)
        return {text: row for text, row in rows if min(row) >= 0}

    def _write(self, batch: VqaBatch, images: Tensor, texts: Tensor) -> list[str]:
        """Answers in the decoder's own words."""
        tokenizer = self.preprocessing.tokenizer
        rows = self.model.generate_answers(
            batch,
            images,
            texts,
            start=self._place(tokenizer.cls_token_id),
            end=self._place(tokenizer.sep_token_id),
            max_length=self.recipe.max_answer_length,
        )
        if self._vocabulary is not None:
            rows = [[self._vocabulary.tokens[place] for place in row] for row in rows]
        return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def _collator(recipe: VqaRecipe, preprocessing: OwnPreprocessing, vocabulary: AnswerVocabulary | None) -> VqaCollator:
    """Makes batches of questions with the answers as the decoder reads them."""
    return VqaCollator(
        preprocessing.collator().encode,
        preprocessing.tokenizer,
        max_answer_length=recipe.max_answer_length,
        vocabulary=vocabulary,
    )
