"""Accuracy of answers to the questions of A-OKVQA: of those chosen among four, and of those in own words."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from truepair.errors import DataError
from truepair.files import write_json

_ENOUGH = 3


class GivenAnswer(NamedTuple):
    """What is answered to one question about an image."""

    direct: str
    """In own words, or from a list of answers to all questions."""
    choice: str = ""
    """One of the choices among which the question asks; empty where it does not."""


@dataclass(frozen=True)
class AokvqaAccuracy:
    """The two figures of A-OKVQA; shares between 0 and 1, None where the right answers are unknown.

    Attributes:
        multiple_choice: share of the questions whose right choice was chosen.
        choice_questions: how many.
        direct_answer: mean of `direct_answer_accuracy`.
        direct_questions: how many; by default without those marked as difficult for answers in own words.
    """

    multiple_choice: float | None
    choice_questions: int
    direct_answer: float | None
    direct_questions: int


def direct_answer_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer in own words: min(1, how many people gave it / 3).

    As in A-OKVQA's evaluation program, texts are compared to the letter, and all people count at once: VQA leaves out
    one after the other, and normalises both sides.

    Args:
        predicted: the answer to judge.
        answers: what each person answered: ten.
    """
    return min(1.0, list(answers).count(predicted) / _ENOUGH)


def aokvqa_accuracy(
    predictions: Mapping[int, GivenAnswer],
    answers: Mapping[int, Sequence[str]],
    right_choices: Mapping[int, str | None],
    *,
    left_out: Collection[int] = (),
) -> AokvqaAccuracy:
    """Both figures of a whole set, as A-OKVQA's evaluation program computes them.

    Args:
        predictions: by question id.
        answers: question id to people's answers; empty where they are unknown.
        right_choices: question id to the right choice, None where it is unknown; each of these questions must be
            predicted.
        left_out: questions that count for multiple choice alone; in the program, those that are marked as difficult.

    Raises:
        DataError: no questions, or one that was not predicted.
    """
    missing = [question for question in right_choices if question not in predictions]
    if missing or not right_choices:
        raise DataError(f"{len(missing)} of {len(right_choices)} questions have no prediction; answer each of them")
    chosen = [
        float(predictions[question].choice == right) for question, right in right_choices.items() if right is not None
    ]
    direct = [
        direct_answer_accuracy(predictions[question].direct, answers[question])
        for question in right_choices
        if answers.get(question) and question not in left_out
    ]
    return AokvqaAccuracy(_mean(chosen), len(chosen), _mean(direct), len(direct))


def write_aokvqa_predictions(
    predictions: Mapping[int, GivenAnswer], path: str | Path, stated_ids: Mapping[int, str]
) -> None:
    """Write answers as the leaderboard takes them: ``{question_id: {"multiple_choice": ..., "direct_answer": ...}}``.

    Args:
        predictions: by question id, which is the order of the file.
        path: the file.
        stated_ids: what the source calls questions whose ids are texts, by the numbers that stand for them.

    Raises:
        DataError: the disk refuses.
    """
    entries = {
        stated_ids.get(question, str(question)): {"multiple_choice": one.choice, "direct_answer": one.direct}
        for question, one in predictions.items()
    }
    write_json(Path(path), entries)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
