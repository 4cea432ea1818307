"""What can be answered without looking: the baselines that a model of images and text must beat."""

from collections import Counter
from collections.abc import Iterable, Sequence

from truepair.errors import DataError


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
