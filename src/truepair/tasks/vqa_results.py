"""What is written and measured of answers to questions, beside answers of who does not look."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from truepair.data.tasks.vqa import trained_answers
from truepair.data.tasks.vqa_source import VqaTable
from truepair.evaluation.aokvqa import AokvqaAccuracy, GivenAnswer, aokvqa_accuracy, write_aokvqa_predictions
from truepair.evaluation.vqa import AlternativesBaseline, VqaAccuracy, vqa_accuracy, write_vqa_results
from truepair.files import write_json
from truepair.methods.student import Say
from truepair.relations.text import UNSTATED, normalise_answer
from truepair.tasks.downstream import FigureTable

_Accuracy = VqaAccuracy | AokvqaAccuracy


@dataclass(frozen=True)
class VqaResult:
    """What a model answers to the test questions, and how well.

    Attributes:
        questions: how many.
        accuracies: by who answers: "model", "text alone", "majority"; empty where the right answers are unknown.
    """

    questions: int
    accuracies: dict[str, VqaAccuracy | AokvqaAccuracy]

    def table(self) -> FigureTable:
        """Accuracy over all questions and by kind, of the model and of who does not look."""
        columns = [_figures(one) for one in self.accuracies.values()]
        rows = [[kind, *(f"{column[kind]:.1%}" for column in columns)] for kind in (columns[0] if columns else ())]
        kind = "A-OKVQA" if any(isinstance(one, AokvqaAccuracy) for one in self.accuracies.values()) else "VQA accuracy"
        return FigureTable(f"{kind}: {self.questions:,} questions", ["questions", *self.accuracies], rows)


def _figures(accuracy: _Accuracy) -> dict[str, float]:
    """The figures of a table, by what they are of; types of questions where there are few of them."""
    if isinstance(accuracy, VqaAccuracy):
        few = accuracy.by_question_type if len(accuracy.by_question_type) < 20 else {}
        return {"all": accuracy.overall, **accuracy.by_answer_type, **few}
    both = {"multiple choice": accuracy.multiple_choice, "direct answer": accuracy.direct_answer}
    return {name: share for name, share in both.items() if share is not None}


def accuracy_of(answers: Sequence[GivenAnswer], table: VqaTable, *, difficult: bool) -> _Accuracy:
    """Accuracy of answers to the questions of a table: that of A-OKVQA where they ask among choices, else of VQA.

    Args:
        answers: one to each question.
        table: the questions, some of them with known answers.
        difficult: those that are marked as difficult count as well.
    """
    rows = table.questions
    ids = list(rows["question_id"])
    given = dict(zip(ids, answers, strict=True))
    right = dict(zip(ids, rows["answers"], strict=True))
    if table.choices:
        chosen = {one: table.choices[one] for one in ids}
        left_out = () if difficult else {question for question, one in chosen.items() if one.difficult}
        return aokvqa_accuracy(
            given, right, {question: one.right_text for question, one in chosen.items()}, left_out=left_out
        )
    return vqa_accuracy(
        {question: answer.direct for question, answer in given.items()},
        right,
        answer_types=dict(zip(ids, rows["answer_type"], strict=True)),
        question_types=dict(zip(ids, rows["question_type"], strict=True)),
    )


def figures_of(answers: Sequence[GivenAnswer], table: VqaTable, *, difficult: bool) -> dict[str, float]:
    """Figures for the log of a run, see `accuracy_of`."""
    accuracy = accuracy_of(answers, table, difficult=difficult)
    if isinstance(accuracy, VqaAccuracy):
        return {
            "accuracy": accuracy.overall,
            **{f"accuracy/{name}": share for name, share in accuracy.by_answer_type.items()},
        }
    both = {"accuracy": accuracy.direct_answer, "multiple_choice": accuracy.multiple_choice}
    return {name: share for name, share in both.items() if share is not None}


def report_answers(
    answers: Sequence[GivenAnswer], table: VqaTable, folder: Path, baselines: "Blind", say: Say, *, difficult: bool
) -> VqaResult:
    """Write what the evaluation servers take, and ``vqa.json`` with accuracies.

    That is ``aokvqa_predictions.json`` for A-OKVQA, and ``vqa_results.json`` for all else.

    Args:
        answers: one to each question.
        table: the questions.
        folder: where the files go.
        baselines: who answers without looking.
        say: prints a line.
        difficult: see `accuracy_of`.
    """
    ids = list(table.questions["question_id"])
    given = dict(zip(ids, answers, strict=True))
    silent = sum(not answer.direct for answer in answers)
    if silent:
        say(f"data.test: {silent:,} of {len(table):,} answers are empty, and agree with nobody")
    if table.choices:
        write_aokvqa_predictions(given, folder / "aokvqa_predictions.json", table.stated_ids)
    else:
        direct = {question: answer.direct for question, answer in given.items()}
        write_vqa_results(direct, folder / "vqa_results.json", table.stated_ids)
    known = table if table.choices else table.answered()  # questions with choices may have a right one alone
    if 0 < len(known) < len(table):
        say(f"data.test: accuracy over the {len(known):,} of {len(table):,} questions that have answers")
    result = VqaResult(len(table), _accuracies(given, known, baselines, difficult) if len(known) else {})
    left = 0 if difficult else sum(table.choices[question].difficult for question in ids if table.choices)
    if left and result.accuracies:
        say(
            f"data.test: left out: {left:,} of {len(table):,} questions are difficult to answer in own words, and "
            "count among choices alone, as in A-OKVQA's evaluation; --difficult_questions true counts them"
        )
    write_json(folder / "vqa.json", asdict(result))
    return result


def _accuracies(
    given: Mapping[int, GivenAnswer], table: VqaTable, baselines: "Blind", difficult: bool
) -> dict[str, _Accuracy]:
    """Accuracy by who answers; nothing where no right answer is known."""
    answers = [given[question] for question in table.questions["question_id"]]
    model = accuracy_of(answers, table, difficult=difficult)
    if not _figures(model):
        return {}
    blind = baselines.answers(table).items()
    return {"model": model, **{who: accuracy_of(theirs, table, difficult=difficult) for who, theirs in blind}}


class Blind:
    """Answers of who does not look, but knows the training questions.

    Args:
        train: the training questions.
        known: the answer list.
    """

    def __init__(self, train: VqaTable, known: Sequence[str]) -> None:
        rows = train.answered().questions
        self._known = known
        self._questions: list[str] = list(rows["question"])
        self._answers: list[str] = []
        self._counts: Counter[str] = Counter()
        for question, answers in zip(rows["question_id"], rows["answers"], strict=True):
            exact = question in train.choices
            self._answers.append(_usual(answers, exact))
            if exact:
                self._counts.update(trained_answers(answers, exact=True))

    def answers(self, table: VqaTable) -> dict[str, list[GivenAnswer]]:
        """What they answer to the questions of a table, by how: "text alone" and "majority".

        Among choices they take their answer if it is one of them, or else the one that was most often the answer to a
        training question.
        """
        baseline = AlternativesBaseline(self._questions, self._answers, self._known)
        direct = {
            "text alone": baseline.answer(list(table.questions["question"])),
            "majority": [baseline.majority] * len(table),
        }
        ids = list(table.questions["question_id"])
        return {
            who: [self._given(answer, table, question) for answer, question in zip(answers, ids, strict=True)]
            for who, answers in direct.items()
        }

    def _given(self, answer: str, table: VqaTable, question: int) -> GivenAnswer:
        if not table.choices:
            return GivenAnswer(answer)
        texts = table.choices[question].texts
        usual = max(texts, key=lambda text: self._counts[text])  # the first of equally frequent ones
        return GivenAnswer(answer, answer if answer in texts else usual)


def _usual(answers: Sequence[str], exact: bool) -> str:
    """The most frequent answer, as it is trained on; the first in alphabetical order of equally frequent ones."""
    known = [answer for answer in answers if answer != UNSTATED]
    usual = min(known, key=lambda answer: (-known.count(answer), answer))
    return usual.strip() if exact else normalise_answer(usual)
