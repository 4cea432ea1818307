"""Accuracy of answers to questions, and of guesses that do not look."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from truepair.errors import DataError
from truepair.files import write_text
from truepair.relations.text import UNSTATED, normalise_answer

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

    Of less than four people, all others are enough for 1; of one answer alone, as in GQA, it is whether it was given.
    Both sides are normalised. (The evaluation program leaves them as they are where all people agree to the letter.)

    Args:
        predicted: the answer to judge.
        answers: what each person answered: ten in VQA v2; ``UNSTATED`` where the data do not say.

    Raises:
        DataError: nobody answered.
    """
    if not answers:
        raise DataError("a question has no human answers; its accuracy is not defined")
    wanted = normalise_answer(predicted)
    agrees = [answer != UNSTATED and normalise_answer(answer) == wanted for answer in answers]
    matches = sum(agrees)
    if len(agrees) == 1:
        return float(matches)
    enough = min(_ENOUGH, len(agrees) - 1)
    return sum(min(1.0, (matches - own) / enough) for own in agrees) / len(answers)


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


def write_vqa_results(
    predictions: Mapping[int, str], path: str | Path, stated_ids: Mapping[int, str] | None = None
) -> None:
    """Write answers as the evaluation server takes them: a JSON list of question_id and answer, by question id.

    Args:
        predictions: answer by question id.
        path: the file.
        stated_ids: what the source calls questions whose ids are texts, by the numbers that stand for them.

    Raises:
        DataError: the disk refuses.
    """
    names = stated_ids or {}
    entries = [
        {"question_id": names.get(question, question), "answer": predictions[question]}
        for question in sorted(predictions)
    ]
    write_text(Path(path), json.dumps(entries))


def _means(scores: Mapping[int, float], types: Mapping[int, str]) -> dict[str, float]:
    """Mean score of each type, in order of their names."""
    parts: dict[str, list[float]] = {}
    for question, kind in types.items():
        if question in scores:
            parts.setdefault(kind, []).append(scores[question])
    return {kind: _mean(parts[kind]) for kind in sorted(parts)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class TextBaseline:
    """Answers from the text alone: the most frequent training answer to the same text.

    A text that was not seen in training gets the most frequent answer to texts with the same beginning of three words,
    two, one, or none; among equally frequent answers the first in alphabetical order. With nothing but the last, it is
    the majority baseline.

    Args:
        texts: training questions or statements.
        answers: an answer to each; a text with several answers is repeated.

    Raises:
        DataError: there is nothing to learn from.
    """

    _WORDS = (3, 2, 1, 0)

    def __init__(self, texts: Iterable[str], answers: Iterable[str]) -> None:
        self._same: dict[str, Counter[str]] = {}
        self._alike: dict[tuple[str, ...], Counter[str]] = {}
        for text, answer in zip(texts, answers, strict=True):
            self._same.setdefault(text, Counter())[answer] += 1
            for beginning in {tuple(text.split()[:words]) for words in self._WORDS}:
                self._alike.setdefault(beginning, Counter())[answer] += 1
        if not self._same:
            raise DataError("a baseline needs at least one training answer")

    @property
    def majority(self) -> str:
        """The most frequent answer of all."""
        return _most_frequent(self._alike[()])

    def answer(self, texts: Sequence[str]) -> list[str]:
        """An answer to each text."""
        return [_most_frequent(self._counts(text)) for text in texts]

    def _counts(self, text: str) -> Counter[str]:
        if text in self._same:
            return self._same[text]
        beginnings = (tuple(text.split()[:words]) for words in self._WORDS)
        return next(self._alike[beginning] for beginning in beginnings if beginning in self._alike)


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


class AlternativesBaseline(TextBaseline):
    """Answers from the text alone; where a question names two answers of the list, "A or B", with the first of them.

    Whoever knows how to read such a question is right half the time, where the two are asked for equally often. A
    baseline without that would flatter every model.

    Args:
        texts: training questions.
        answers: an answer to each.
        known: the answer list, normalised.
    """

    def __init__(self, texts: Iterable[str], answers: Iterable[str], known: Iterable[str]) -> None:
        super().__init__(texts, answers)
        self._known = {normalise_answer(answer) for answer in known}

    def answer(self, texts: Sequence[str]) -> list[str]:
        """An answer to each text."""
        guesses = super().answer(texts)
        return [self._first_named(text) or guess for text, guess in zip(texts, guesses, strict=True)]

    def _first_named(self, text: str) -> str | None:
        """The first of the two answers that a question names; None if it names no two."""
        before, found, after = text.partition(" or ")
        if not found:
            return None
        first, second = before.split(), after.rstrip("?").split()
        endings = (normalise_answer(" ".join(first[start:])) for start in range(len(first)))
        beginnings = (normalise_answer(" ".join(second[:end])) for end in range(len(second), 0, -1))
        named = next((ending for ending in endings if ending in self._known), None)
        return named if any(beginning in self._known for beginning in beginnings) else None
