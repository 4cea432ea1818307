"""What all ways to answer questions about images have in common: how questions are read, and answers measured."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from truepair.data.tasks.vqa import VqaDataset, frequent_answers
from truepair.data.tasks.vqa_source import VqaTable, load_answer_list, open_vqa
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.evaluation.aokvqa import GivenAnswer
from truepair.randomness import stable_hash
from truepair.tasks.downstream import DownstreamTask, Split
from truepair.tasks.vqa_recipe import VqaDataConfig, VqaRecipe
from truepair.tasks.vqa_results import Blind, VqaResult, figures_of, report_answers


def training_questions(data: VqaDataConfig) -> VqaTable:
    """All training questions that have answers."""
    return open_vqa(data.train).answered()


def answer_list(data: VqaDataConfig) -> list[str]:
    """The answers to choose from.

    Raises:
        DataError: the list cannot be read, or no training answer was given often enough.
    """
    if data.answers:
        return load_answer_list(data.answers)
    return frequent_answers(training_questions(data), data.least_answers)


class QuestionTask(DownstreamTask[VqaTable, GivenAnswer, VqaResult]):
    """Questions about images; a subclass says how a model answers them."""

    texts_name = "questions"
    recipe: VqaRecipe

    def read(self, split: Split) -> VqaTable:
        """The questions of a split; of the first two, those with answers, and as many as the recipe wants.

        Raises:
            DataError: no question to learn from, or to choose the model by, has answers; or questions that are measured
                ask among choices in part.
        """
        data = self.recipe.data
        counts = {"train": data.train_questions, "validation": data.validation_questions, "test": 0}
        table = open_vqa(getattr(data, split))
        for note in table.notes:
            self.say(f"data.{split}: {note}")
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
        among = sum(question in table.choices for question in table.questions["question_id"])
        if split != "train" and 0 < among < len(table):
            raise DataError(
                f"data.{split}: {among:,} of {len(table):,} questions are of A-OKVQA, whose accuracy is another one; "
                "measure each data set alone"
            )
        return _part(table, counts[split])

    def texts(self, table: VqaTable) -> list[str]:
        """The questions of a table."""
        return list(table.questions["question"])

    def dataset(self, table: VqaTable, transform: ImageTransform | None) -> VqaDataset:
        """The questions of a table as samples."""
        return VqaDataset(table, transform, seed=self.recipe.loop.seed)

    def measure(self, answers: Sequence[GivenAnswer], table: VqaTable) -> dict[str, float]:
        """Accuracy over all questions, and by type of answer; of A-OKVQA, both figures."""
        return figures_of(answers, table, difficult=self.recipe.difficult_questions)

    def report(self, answers: Sequence[GivenAnswer], table: VqaTable, folder: Path) -> VqaResult:
        """Write the answers for the evaluation server, and ``vqa.json`` with accuracies."""
        difficult = self.recipe.difficult_questions
        return report_answers(answers, table, folder, self._blind, self.say, difficult=difficult)

    def known_answers(self) -> list[str]:
        """The answers that who does not look knows."""
        return answer_list(self.recipe.data)

    @cached_property
    def _blind(self) -> Blind:
        return Blind(training_questions(self.recipe.data), self.known_answers())


def _part(table: VqaTable, count: int) -> VqaTable:
    """A part of the questions, drawn by a hash of their ids; 0 for all."""
    if not count or count >= len(table):
        return table
    ids = table.questions["question_id"]
    order = sorted(range(len(table)), key=lambda row: stable_hash("part of questions", ids[row]))
    return replace(table, questions=table.questions.select(sorted(order[:count])))
