"""Visual question answering: training on questions with weighted answers, and answering by ranking a list."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from truepair.data.answer_vocabulary import AnswerVocabulary
from truepair.data.preprocessing import Preprocessing
from truepair.data.randomness import stable_hash
from truepair.data.vqa import VqaCollator, VqaDataset
from truepair.data.vqa_source import VqaTable, load_answer_list, open_vqa
from truepair.evaluation.alternatives import AlternativesBaseline
from truepair.evaluation.vqa_accuracy import VqaAccuracy, vqa_accuracy, write_vqa_results
from truepair.models.albef_checkpoint import load_model
from truepair.models.answer_trie import AnswerTrie
from truepair.models.vqa import VqaModel
from truepair.relations.answer_text import normalise_answer
from truepair.tasks.finetuning import Say, finetune
from truepair.tasks.start import image_transform, load_start, task_states
from truepair.tasks.vqa_recipe import VqaRecipe
from truepair.training.progress import counting
from truepair.training.task_states import States


@dataclass(frozen=True)
class VqaResult:
    """What a model answers to the test questions, and how well.

    Attributes:
        questions: how many.
        accuracies: by who answers: "model", "text alone", "majority"; empty where the right answers are unknown.
    """

    questions: int
    accuracies: dict[str, VqaAccuracy]


class VqaTask:
    """Questions about images as a `FinetuneTask`.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
    """

    def __init__(self, recipe: VqaRecipe, model: VqaModel, preprocessing: Preprocessing) -> None:
        self.recipe = recipe
        self.model = model
        self.preprocessing = preprocessing
        self.answers = load_answer_list(recipe.data.answers)
        tokens = model.config.answer_tokens
        vocabulary = None if tokens is None else AnswerVocabulary(tokens)
        self.collate = _collator(recipe, preprocessing, vocabulary)
        # Answers are ranked by their tokens; those that a model of another list does not know are left out.
        rows = zip(self.answers, self.collate.answer_tokens(self.answers), strict=True)
        known = [(answer, row) for answer, row in rows if min(row) >= 0]
        self.answers = [answer for answer, _ in known]
        start = preprocessing.tokenizer.cls_token_id
        root = start if vocabulary is None else vocabulary.tokens.index(start)
        self.trie = AnswerTrie([row for _, row in known], root)

    @classmethod
    def from_checkpoint(cls, recipe: VqaRecipe) -> "VqaTask":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = replace(recipe, data=recipe.data.filled())
        start = load_start(recipe.model, recipe.loop.seed)
        fields = dict(recipe.model.options)
        if recipe.list_vocabulary:
            collator = _collator(recipe, start.preprocessing, None)
            ids, mask = collator.encode_answers(load_answer_list(recipe.data.answers))
            padding = start.preprocessing.tokenizer.pad_token_id
            fields["answer_tokens"] = AnswerVocabulary.of_answers(ids, mask, padding).tokens
        return cls(recipe, VqaModel.from_albef(start.albef, **fields), start.preprocessing)

    def train_dataset(self) -> VqaDataset:
        """The training questions."""
        table = _part(open_vqa(self.recipe.data.train), self.recipe.data.train_questions)
        return self._dataset(table, train=True)

    def train_states(self) -> States:
        """States of the training images and questions."""
        return self._states(self.train_dataset().table)

    @property
    def validates(self) -> bool:
        """Whether there are validation questions."""
        return bool(self.recipe.data.validation)

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        """Accuracy on the validation questions, over all and by type of answer."""
        assert isinstance(model, VqaModel)
        table, states = self._validation
        accuracy = accuracy_of(self._answer(model, table, states), table)
        return {"accuracy": accuracy.overall, **{f"accuracy/{n}": v for n, v in accuracy.by_answer_type.items()}}

    def predict(self, model: VqaModel, table: VqaTable) -> dict[int, str]:
        """The likeliest answer of the list to each question, by question id."""
        return self._answer(model, table, self._states(table))

    def evaluate(self, model: VqaModel, folder: Path) -> VqaResult:
        """Answer the test questions; writes ``vqa_results.json`` for the evaluation server and ``vqa.json``."""
        table = open_vqa(self.recipe.data.test)
        predictions = self.predict(model, table)
        write_vqa_results(predictions, folder / "vqa_results.json")
        result = VqaResult(len(table), {})
        if all(table.questions["answers"]):
            result.accuracies["model"] = accuracy_of(predictions, table)
            result.accuracies.update(self._baselines(table))
        (folder / "vqa.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        return result

    def _answer(self, model: VqaModel, table: VqaTable, states: States) -> dict[int, str]:
        model.eval()
        dataset = self._dataset(table, train=False)
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=self.recipe.batch_size, collate_fn=self.collate)
        found: dict[int, str] = {}
        features = self._answer_features(model)
        with counting(f"answers to {len(table):,} questions") as progress:
            for batch in loader:
                batch = batch.to(model.device)
                images, texts = states(model, batch)
                prior = None
                if features is not None:
                    cosines = model.similarities(images, features)  # [I, A]
                    prior = self.recipe.similarity_weight * cosines[batch.image_rows]  # [Q, A]
                ranked = model.predict(batch, self.trie, images, texts, candidates=self.recipe.candidates, prior=prior)
                best = ranked.answers[:, 0].tolist()
                found |= {
                    number: self.answers[answer]
                    for number, answer in zip(batch.question_id.tolist(), best, strict=True)
                }
                progress(len(found), len(table))
        return found

    def _answer_features(self, model: VqaModel) -> Tensor | None:
        """Features of the answer list [A, E], where similarity has a say."""
        if not self.recipe.similarity_weight:
            return None
        ids, mask = self.preprocessing.collator().encode(self.answers)
        parts = zip(ids.split(self.recipe.batch_size), mask.split(self.recipe.batch_size), strict=True)
        device = model.device
        return torch.cat([model.answer_features(part.to(device), seen.to(device)) for part, seen in parts])

    def _baselines(self, table: VqaTable) -> dict[str, VqaAccuracy]:
        """What can be had without looking."""
        train = open_vqa(self.recipe.data.train).questions
        given = [
            (question, _usual(answers)) for question, answers in zip(train["question"], train["answers"], strict=True)
        ]
        baseline = AlternativesBaseline(
            [question for question, _ in given], [answer for _, answer in given], self.answers
        )
        ids, questions = list(table.questions["question_id"]), list(table.questions["question"])
        guesses = baseline.answer(questions)
        return {
            "text alone": accuracy_of(dict(zip(ids, guesses, strict=True)), table),
            "majority": accuracy_of(dict.fromkeys(ids, baseline.majority), table),
        }

    @cached_property
    def _validation(self) -> tuple[VqaTable, States]:
        table = _part(open_vqa(self.recipe.data.validation), self.recipe.data.validation_questions)
        return table, self._states(table)

    def _dataset(self, table: VqaTable, *, train: bool) -> VqaDataset:
        transform = None
        if not self.recipe.model.cache_images:
            transform = image_transform(self.preprocessing, self.model, train=train)
        return VqaDataset(table, transform, seed=self.recipe.loop.seed)

    def _states(self, table: VqaTable) -> States:
        questions = table.questions["question"]
        return task_states(self.recipe.model, self.preprocessing, self.model, table.images, questions)


def finetune_vqa(recipe: VqaRecipe, run_folder: Path, say: Say) -> VqaResult | None:
    """Fine-tune on questions, and answer the test questions with the model that is left.

    Args:
        recipe: everything the run depends on.
        run_folder: where everything goes.
        say: prints a line.

    Returns:
        The result of the test questions; None without such, and on further ranks.
    """
    task = VqaTask.from_checkpoint(recipe)
    say(f"{len(task.train_dataset()):,} training questions, {len(task.answers):,} answers to choose from")
    _, main = finetune(task, recipe.loop, recipe.optimizer, run_folder)
    return task.evaluate(task.model, run_folder) if main and task.recipe.data.test else None


def evaluate_vqa(model_folder: Path, recipe: VqaRecipe, folder: Path) -> VqaResult:
    """Answer the test questions of a recipe with a trained model; files go to ``folder``."""
    recipe = replace(recipe, data=recipe.data.filled())
    task = VqaTask(recipe, load_model(VqaModel, model_folder), Preprocessing.load(model_folder))
    return task.evaluate(task.model, folder)


def accuracy_of(predictions: dict[int, str], table: VqaTable) -> VqaAccuracy:
    """VQA accuracy of answers by question id."""
    rows = table.questions
    ids = list(rows["question_id"])
    return vqa_accuracy(
        predictions,
        dict(zip(ids, rows["answers"], strict=True)),
        answer_types=dict(zip(ids, rows["answer_type"], strict=True)),
        question_types=dict(zip(ids, rows["question_type"], strict=True)),
    )


def _collator(recipe: VqaRecipe, preprocessing: Preprocessing, vocabulary: AnswerVocabulary | None) -> VqaCollator:
    return VqaCollator(
        preprocessing.collator().encode,
        preprocessing.tokenizer,
        max_answer_length=recipe.max_answer_length,
        vocabulary=vocabulary,
    )


def _part(table: VqaTable, count: int) -> VqaTable:
    """A part of the questions, drawn by a hash of their ids; 0 for all."""
    if not count or count >= len(table):
        return table
    ids = table.questions["question_id"]
    order = sorted(range(len(table)), key=lambda row: stable_hash("part of questions", ids[row]))
    return VqaTable(table.images, table.questions.select(sorted(order[:count])))


def _usual(answers: Sequence[str]) -> str:
    """The most frequent answer, normalised; the first in alphabetical order of equally frequent ones."""
    return normalise_answer(min(answers, key=lambda answer: (-answers.count(answer), answer)))
