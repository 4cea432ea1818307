"""VQA accuracy: an answer counts in full if at least three of the ten people asked gave it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from truepair.errors import DataError
from truepair.relations.answer_text import normalise_answer

_ENOUGH = 3


@dataclass(frozen=True)
class VqaAccuracy:
    """Accuracy on a set of questions; shares between 0 and 1.

    Attributes:
        overall: mean over all questions.
        questions: how many.
        by_answer_type: mean for each type of answer ("yes/no", "number", "other").
        by_question_type: mean for each type of question ("what color is the", ...).
    """

    overall: float
    questions: int
    by_answer_type: Mapping[str, float] = field(default_factory=dict)
    by_question_type: Mapping[str, float] = field(default_factory=dict)


def answer_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer: the mean over people of min(1, how many of the others gave it / 3).

    Both sides are normalised. (The evaluation program leaves them as they are where all people agree to the letter.)

    Args:
        predicted: the answer to judge.
        answers: what each person answered: ten in VQA v2.

    Raises:
        DataError: nobody answered.
    """
    if not answers:
        raise DataError("a question has no human answers; its accuracy is not defined")
    wanted = normalise_answer(predicted)
    agrees = [normalise_answer(answer) == wanted for answer in answers]
    matches = sum(agrees)
    return sum(min(1.0, (matches - own) / _ENOUGH) for own in agrees) / len(answers)


def vqa_accuracy(
    predictions: Mapping[int, str],
    answers: Mapping[int, Sequence[str]],
    *,
    answer_types: Mapping[int, str] | None = None,
    question_types: Mapping[int, str] | None = None,
) -> VqaAccuracy:
    """Accuracy of a whole set, as the evaluation server computes it.

    Args:
        predictions: question id to answer.
        answers: question id to human answers; each of these questions must be predicted.
        answer_types: question id to type of answer.
        question_types: question id to type of question.

    Raises:
        DataError: no questions, or one that was not predicted.
    """
    missing = [question for question in answers if question not in predictions]
    if missing or not answers:
        raise DataError(f"{len(missing)} of {len(answers)} questions have no prediction; answer each of them")
    scores = {question: answer_accuracy(predictions[question], given) for question, given in answers.items()}
    return VqaAccuracy(
        overall=_mean(list(scores.values())),
        questions=len(scores),
        by_answer_type=_means(scores, answer_types or {}),
        by_question_type=_means(scores, question_types or {}),
    )


def write_vqa_results(predictions: Mapping[int, str], path: str | Path) -> None:
    """Write answers as the evaluation server takes them: a JSON list of question_id and answer, by question id."""
    entries = [{"question_id": question, "answer": predictions[question]} for question in sorted(predictions)]
    Path(path).write_text(json.dumps(entries), encoding="utf-8")


def _means(scores: Mapping[int, float], types: Mapping[int, str]) -> dict[str, float]:
    """Mean score of each type, in order of their names."""
    parts: dict[str, list[float]] = {}
    for question, kind in types.items():
        if question in scores:
            parts.setdefault(kind, []).append(scores[question])
    return {kind: _mean(parts[kind]) for kind in sorted(parts)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
