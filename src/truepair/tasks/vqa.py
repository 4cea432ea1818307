"""Visual question answering: training on questions with weighted answers, and answering by ranking a list."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from truepair.data.left_out import LeftOut
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.sample_tasks.store import ANSWERS, sample_vqa
from truepair.data.tasks.vqa import AnswerVocabulary, VqaBatch, VqaCollator, VqaDataset, VqaSample
from truepair.data.tasks.vqa_source import VqaSource, VqaTable, load_answer_list, open_vqa
from truepair.data.transforms import ImageTransform
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError, DataError
from truepair.evaluation.vqa import AlternativesBaseline, VqaAccuracy, vqa_accuracy, write_vqa_results
from truepair.files import write_json
from truepair.methods.student import Say
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models.checkpoints.load import load_model
from truepair.models.encoders.fingerprint import combined_key
from truepair.models.fusion.answers import AnswerTrie
from truepair.models.fusion.vqa import VqaModel
from truepair.randomness import stable_hash
from truepair.relations.text import UNSTATED, normalise_answer
from truepair.settings import Natural, Positive, Weight
from truepair.tasks.downstream import DownstreamTask, FigureTable, Split, finetune, listing_in, with_data
from truepair.tasks.start import StartConfig, load_start


@dataclass(frozen=True, kw_only=True)
class VqaDataConfig:
    """Where questions and answers come from.

    Attributes:
        sample: folder for the questions about the bundled drawings; they are written if it is not there, and stand for
            all that is not stated below.
        train: files of questions and answers; several (train, val, Visual Genome) become one set.
        validation: files for validation figures; empty for none.
        test: files whose questions are answered in the end; scored where their answers are known.
        answers: JSON list of the answers to choose from.
        train_questions: train on this many of the questions, drawn by a hash of their ids; 0 for all.
        validation_questions: measure this many between epochs, drawn alike; 0 for all.
    """

    sample: str | None = None
    train: list[VqaSource] = field(default_factory=list)
    validation: list[VqaSource] = field(default_factory=list)
    test: list[VqaSource] = field(default_factory=list)
    answers: str = ""
    train_questions: Natural = 0
    validation_questions: Natural = 0

    def filled(self) -> "VqaDataConfig":
        """The same with the files of the sample in place of what is not stated.

        Raises:
            ConfigError: there is nothing to train on, or no answer list.
        """
        if self.sample is not None:
            files = sample_vqa(self.sample)
            return replace(
                self,
                sample=None,
                train=self.train or [files["train"]],
                validation=self.validation or [files["val"]],
                test=self.test or [files["test"]],
                answers=self.answers or f"{self.sample}/{ANSWERS}",
            )
        if not self.train or not self.answers:
            raise ConfigError("data.train and data.answers name no files; state them, or data.sample")
        return self


@dataclass(frozen=True, kw_only=True)
class VqaRecipe:
    """Fine-tuning on questions about images.

    Attributes:
        data: where questions and answers come from.
        model: what is started from, and which parts move.
        max_answer_length: most tokens of an answer, start and end included.
        list_vocabulary: the answer decoder knows the tokens of the answer list alone. Answers with others, which could
            not be chosen, are not trained on; a vocabulary head of 30,522 tokens is saved.
        candidates: answers of each question that are scored in full (ALBEF: 128).
        generate: let the decoder write each answer, the likeliest token each time, in place of choosing from the list.
        similarity_weight: what the cosine of image and answer in ITC counts beside the answer's log-likelihood, in
            ranking alone; to be chosen on validation questions. Needs ``token_products``.
        batch_size: questions answered at once in evaluation.
        optimizer: how the weights move.
        loop: how long and how.
    """

    data: VqaDataConfig = field(default_factory=VqaDataConfig)
    model: StartConfig = field(default_factory=StartConfig)
    max_answer_length: Positive = 12
    list_vocabulary: bool = True
    candidates: Positive = 128
    generate: bool = False
    similarity_weight: Weight = 0.0
    batch_size: Positive = 64
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.generate and self.similarity_weight:
            raise ConfigError("similarity_weight ranks a list, and generate writes without one; drop one of both")


@dataclass(frozen=True)
class VqaResult:
    """What a model answers to the test questions, and how well.

    Attributes:
        questions: how many.
        accuracies: by who answers: "model", "text alone", "majority"; empty where the right answers are unknown.
    """

    questions: int
    accuracies: dict[str, VqaAccuracy]

    def table(self) -> FigureTable:
        """Accuracy over all questions and by kind, of the model and of who does not look."""
        columns = [
            {
                "all": one.overall,
                **one.by_answer_type,
                **(one.by_question_type if len(one.by_question_type) < 20 else {}),
            }
            for one in self.accuracies.values()
        ]
        rows = [[kind, *(f"{column[kind]:.1%}" for column in columns)] for kind in (columns[0] if columns else ())]
        return FigureTable(f"VQA accuracy: {self.questions:,} questions", ["questions", *self.accuracies], rows)


def finetune_vqa(recipe: VqaRecipe, run_folder: Path, say: Say) -> VqaResult | None:
    """Fine-tune on questions, and answer the test questions with the model that is left; see `finetune`.

    Raises:
        TruepairError: anything in recipe, data or checkpoint that does not fit, in one line.
    """
    task = VqaTask.from_checkpoint(recipe, listing_in(run_folder, say))
    say(f"{len(task.answers):,} answers to choose from")
    return finetune(task, recipe, run_folder, say)


def evaluate_vqa(model_folder: Path, recipe: VqaRecipe, folder: Path, say: Say) -> VqaResult:
    """Answer the test questions of a recipe with a trained model; files go to ``folder``.

    Raises:
        TruepairError: anything in recipe, data or model that does not fit, in one line.
    """
    recipe = with_data(recipe)
    model, preprocessing = load_model(VqaModel, model_folder), OwnPreprocessing.load(model_folder)
    return VqaTask(recipe, model, preprocessing, listing_in(folder, say)).evaluate(folder)


class VqaTask(DownstreamTask[VqaTable, str, VqaResult]):
    """Questions about images, answered by the likeliest answer of a list.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the files.
    """

    texts_name = "questions"
    recipe: VqaRecipe
    model: VqaModel
    preprocessing: OwnPreprocessing

    def __init__(self, recipe: VqaRecipe, model: VqaModel, preprocessing: OwnPreprocessing, left_out: LeftOut) -> None:
        super().__init__(recipe, model, preprocessing, left_out)
        self.answers = load_answer_list(recipe.data.answers)
        tokens = model.config.answer_tokens
        self._vocabulary = None if tokens is None else AnswerVocabulary(tokens)
        self._collate = _collator(recipe, preprocessing, self._vocabulary)
        # Answers are ranked by their tokens; those that a model of another list does not know are left out.
        rows = zip(self.answers, self._collate.answer_tokens(self.answers), strict=True)
        known = [(answer, row) for answer, row in rows if min(row) >= 0]
        self.answers = [answer for answer, _ in known]
        self.trie = AnswerTrie([row for _, row in known], self._place(preprocessing.tokenizer.cls_token_id))
        self._features: Tensor | None = None  # of the answers [A, E]

    @classmethod
    def from_checkpoint(cls, recipe: VqaRecipe, left_out: LeftOut) -> "VqaTask":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = with_data(recipe)
        start = load_start(recipe.model, recipe.loop.seed, left_out.say)
        fields = dict(recipe.model.options)
        if recipe.list_vocabulary:
            collator = _collator(recipe, start.preprocessing, None)
            ids, mask = collator.encode_answers(load_answer_list(recipe.data.answers))
            padding = start.preprocessing.tokenizer.pad_token_id
            fields["answer_tokens"] = AnswerVocabulary.of_answers(ids, mask, padding).tokens
        return cls(recipe, VqaModel.from_albef(start.albef, **fields), start.preprocessing, left_out)

    def read(self, split: Split) -> VqaTable:
        """The questions of a split; of the first two, those with answers, and as many as the recipe wants.

        Raises:
            DataError: no question to learn from, or to choose the model by, has answers.
        """
        data = self.recipe.data
        counts = {"train": data.train_questions, "validation": data.validation_questions, "test": 0}
        table = open_vqa(getattr(data, split))
        self.left_out.source(f"data.{split}", table.skipped)
        if split != "test":
            answered = table.answered()
            if not len(answered):
                raise DataError(
                    f"data.{split}: a question has no answers, and no other has; give files with answers, or their "
                    "annotations"
                )
            if len(answered) < len(table):
                count = len(table) - len(answered)
                self.say(f"data.{split}: left out: {count:,} of {len(table):,} questions have no answers")
            table = answered
        return _part(table, counts[split])

    def texts(self, table: VqaTable) -> list[str]:
        """The questions of a table."""
        return list(table.questions["question"])

    def dataset(self, table: VqaTable, transform: ImageTransform | None) -> VqaDataset:
        """The questions of a table as samples."""
        return VqaDataset(table, transform, seed=self.recipe.loop.seed)

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

    def answer(self, batch: VqaBatch, images: Tensor, texts: Tensor) -> list[str]:
        """The likeliest answer of the list to each of B questions; with ``generate``, what the decoder writes.

        Args:
            batch: The questions.
            images: Image states [B, N, W].
            texts: States of the questions [B, L, W].
        """
        if self.recipe.generate:
            return self._write(batch, images, texts)
        prior = None
        if self._features is not None:
            cosines = self.model.similarities(images, self._features)  # [I, A]
            prior = self.recipe.similarity_weight * cosines[batch.image_rows]  # [Q, A]
        candidates = self.recipe.candidates
        ranked = self.model.predict(batch, self.trie, images, texts, candidates=candidates, prior=prior)
        return [self.answers[number] for number in ranked.answers[:, 0].tolist()]

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

    def measure(self, answers: Sequence[str], table: VqaTable) -> dict[str, float]:
        """VQA accuracy over all questions, and by type of answer."""
        accuracy = _accuracy(answers, table)
        return {"accuracy": accuracy.overall, **{f"accuracy/{n}": v for n, v in accuracy.by_answer_type.items()}}

    def report(self, answers: Sequence[str], table: VqaTable, folder: Path) -> VqaResult:
        """Write ``vqa_results.json`` for the evaluation server, and ``vqa.json`` with accuracies."""
        given = dict(zip(table.questions["question_id"], answers, strict=True))
        write_vqa_results(given, folder / "vqa_results.json", table.stated_ids)
        result = VqaResult(len(table), {})
        known = table.answered()
        if len(known):
            if len(known) < len(table):
                self.say(f"data.test: accuracy over the {len(known):,} of {len(table):,} questions that have answers")
            answers = [given[question] for question in known.questions["question_id"]]
            result.accuracies["model"] = _accuracy(answers, known)
            result.accuracies.update(self._baselines(known))
        write_json(folder / "vqa.json", asdict(result))
        return result

    def _baselines(self, table: VqaTable) -> dict[str, VqaAccuracy]:
        """What can be had without looking."""
        train = open_vqa(self.recipe.data.train).answered().questions
        given = [
            (question, _usual(answers)) for question, answers in zip(train["question"], train["answers"], strict=True)
        ]
        baseline = AlternativesBaseline(
            [question for question, _ in given], [answer for _, answer in given], self.answers
        )
        return {
            "text alone": _accuracy(baseline.answer(self.texts(table)), table),
            "majority": _accuracy([baseline.majority] * len(table), table),
        }


def _accuracy(answers: Sequence[str], table: VqaTable) -> VqaAccuracy:
    """VQA accuracy of answers to the questions of a table."""
    rows = table.questions
    ids = list(rows["question_id"])
    return vqa_accuracy(
        dict(zip(ids, answers, strict=True)),
        dict(zip(ids, rows["answers"], strict=True)),
        answer_types=dict(zip(ids, rows["answer_type"], strict=True)),
        question_types=dict(zip(ids, rows["question_type"], strict=True)),
    )


def _collator(recipe: VqaRecipe, preprocessing: OwnPreprocessing, vocabulary: AnswerVocabulary | None) -> VqaCollator:
    """Makes batches of questions with the answers as the decoder reads them."""
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
    return replace(table, questions=table.questions.select(sorted(order[:count])))


def _usual(answers: Sequence[str]) -> str:
    """The most frequent answer, normalised; the first in alphabetical order of equally frequent ones."""
    known = [answer for answer in answers if answer != UNSTATED]
    return normalise_answer(min(known, key=lambda answer: (-known.count(answer), answer)))
