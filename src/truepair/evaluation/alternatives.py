"""The text-only baseline for questions that name their possible answers: "Is this a dog or a cat?"."""

from collections.abc import Iterable, Sequence

from truepair.evaluation.text_baseline import TextBaseline
from truepair.relations.answer_text import normalise_answer


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
