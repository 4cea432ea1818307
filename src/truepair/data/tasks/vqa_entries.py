"""What one entry of a file of questions states: its question, its answers, the choices among which it asks."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from truepair.data.formats.record import Skips
from truepair.data.tasks.base import first_of
from truepair.relations.text import UNSTATED

_QUESTION = ("question", "sent")

_ANSWERS = ("answer", "answers", "direct_answers")

_PEOPLE = 10  # whose answers VQA v2 has of each question


class Choices(NamedTuple):
    """The answers among which a question asks, as in A-OKVQA."""

    texts: tuple[str, ...]
    """As their source states them."""
    right: int | None
    """Place of the right one; None where it is unknown."""
    difficult: bool
    """People's own answers differ too much: it is no question for answers in own words (difficult_direct_answer)."""

    @property
    def right_text(self) -> str | None:
        """The right one; None where it is unknown."""
        return None if self.right is None else self.texts[self.right]


def listed_question(entry: Mapping[str, Any]) -> str:
    """The question of an entry.

    Raises:
        ValueError: it has none.
    """
    question = first_of(entry, _QUESTION)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"has no question but {question!r:.40}; repair it")
    return question


def listed_answers(entry: Mapping[str, Any], where: str, skips: Skips) -> list[str]:
    """The answers of an entry; none where it states none.

    Raises:
        ValueError: it states some, and none means anything.
    """
    stated = first_of(entry, _ANSWERS)
    if stated is None and isinstance(entry.get("label"), dict):
        return _scored_answers(entry["label"])
    if stated is None or stated == []:
        return []
    found, reasons = [], []
    for one in stated if isinstance(stated, list) else [stated]:
        try:
            found.append(answer_text(one))
        except ValueError as error:
            reasons.append(str(error))
    if not found:
        raise ValueError(reasons[0])
    for reason in reasons:
        skips.part(where, reason)
    return found


def is_aokvqa(entry: Any) -> bool:
    """Whether an entry is one of A-OKVQA's."""
    return isinstance(entry, dict) and ("choices" in entry or "direct_answers" in entry)


def listed_choices(entry: Mapping[str, Any]) -> Choices:
    """The choices of an entry of A-OKVQA.

    Raises:
        ValueError: it has none, or what is said of them cannot be.
    """
    texts = entry.get("choices")
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"choices are no list of two texts or more but {texts!r:.40}; repair it")
    right = entry.get("correct_choice_idx")
    if right is not None and (isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(texts)):
        raise ValueError(f"correct_choice_idx is {right!r:.40}, but there are {len(texts)} choices, from 0; repair it")
    given, difficult = entry.get("direct_answers"), entry.get("difficult_direct_answer", False)
    if given is not None and not isinstance(given, list):
        raise ValueError(f"direct_answers are no list but {given!r:.40}; repair it")
    if not isinstance(difficult, bool):
        raise ValueError(f"difficult_direct_answer is {difficult!r:.40}; it must be true or false")
    return Choices(tuple(texts), right, difficult)


def _scored_answers(scores: Mapping[str, Any]) -> list[str]:
    """Ten people's answers with the scores that LXMERT states: of each as many as its accuracy stands for.

    One, two or three of ten give an answer a score of 0.3, 0.6 and 0.9; four and more give it 1. Answers that the file
    leaves out, since they are rare, are ``UNSTATED``.

    Raises:
        ValueError: a score is none, or an answer is empty.
    """
    counts: dict[str, int] = {}
    for answer, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"score of the answer '{answer:.40}' is {score!r:.40}; it must be from 0 to 1")
        counts[answer_text(answer)] = 4 if score > 0.95 else round(score / 0.3)
    sure = [answer for answer, count in counts.items() if count == 4]
    left = _PEOPLE - sum(counts.values())
    for number in range(left if sure else 0):
        counts[sure[number % len(sure)]] += 1
    found = [answer for answer, count in counts.items() for _ in range(count)]
    return [*found, *[UNSTATED] * (_PEOPLE - len(found))] if found else []


def answer_text(stated: Any) -> str:
    """An answer as text: numbers as JSON writes them but without ".0", true and false as "yes" and "no".

    Raises:
        ValueError: it is none of these, or empty.
    """
    if isinstance(stated, dict):
        stated = stated.get("answer")
    if isinstance(stated, bool):
        return "yes" if stated else "no"
    if isinstance(stated, int | float) and math.isfinite(stated):
        return str(int(stated)) if float(stated).is_integer() else str(stated)
    if not isinstance(stated, str) or not stated.strip():
        raise ValueError(f"answer is neither a text nor a number but {stated!r:.40}; repair it")
    return stated
