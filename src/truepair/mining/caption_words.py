"""The words of captions, and how rare they are."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[a-z]+")
_EMPTY_WORDS = """
    a an the of in on at to and with is are his her its their while by for from as it he she they that this be being
    up down out over into near next two one some other through
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_ENDINGS = ("ing", "es", "ed", "s")
_SHORTEST = 3  # letters that are left when an ending goes


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
