"""How far the words of a caption occur in the captions of an image, by how rare they are."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z]+")
_EMPTY_WORDS = """
    a an the of in on at to and with is are his her its their while by for from as it he she they that this be being
    up down out over into near next two one some other through
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_ENDINGS = ("ing", "es", "ed", "s")
_SHORTEST = 3  # letters that are left when an ending goes

COVERAGE_TERMS = ("coverage", "missing", "length")


@dataclass(frozen=True)
class WordStatistics:
    """How rare words are among captions: a rare word tells more than a common one.

    Attributes:
        captions: how many were counted.
        counts: in how many of them a stem occurs.
    """

    captions: int
    counts: Counter[str]

    @classmethod
    def of(cls, captions: Iterable[str]) -> "WordStatistics":
        """Count the words of captions, those of the training set as a rule."""
        stems = [{stem(word) for word in words(caption)} for caption in captions]
        return cls(len(stems), Counter(word for some in stems for word in some))

    def rarity(self, word: str) -> float:
        """Inverse document frequency of a word's stem: log((T + 1) / (captions that have it + 1))."""
        return math.log((self.captions + 1) / (self.counts[stem(word)] + 1))

    def coverage(self, caption: str, own: Sequence[str]) -> list[float]:
        """How far the words of a caption occur in the captions of an image.

        Args:
            caption: of another image.
            own: the image's captions.

        Returns:
            In the order of ``COVERAGE_TERMS``: the share of its content words, by rarity, whose stems occur in one of
            the image's captions (1 without any); how many do not; and how many words it has.
        """
        known = {stem(word) for text in own for word in words(text)}
        every = words(caption)
        content = [word for word in every if is_content(word)]
        total = sum(map(self.rarity, content))
        covered = sum(self.rarity(word) for word in content if stem(word) in known)
        missing = sum(stem(word) not in known for word in content)
        return [covered / total if total else 1.0, float(missing), float(len(every))]


def words(caption: str) -> list[str]:
    """The words of a caption in lower case, without numbers and punctuation."""
    return _WORD.findall(caption.lower())


def stem(word: str) -> str:
    """A word without a common English ending, so that "jumps" and "jumping" are one word."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            return word[: -len(ending)]
    return word


def is_content(word: str) -> bool:
    """Whether a word in lower case says something about an image: it is no article, preposition or such."""
    return word.isalnum() and word not in _EMPTY
