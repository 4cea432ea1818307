"""Words of captions: how rare, of which kind, and how many."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from truepair.mining.gallery import Gallery, Integers

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


KINDS = {
    "sex": ("man men boy boys guy guys male gentleman", "woman women girl girls lady ladies female"),
    "age": (
        "boy boys girl girls child children kid kids baby toddler",
        "man men woman women lady guy adult adults",
    ),
    "creature": (
        "dog dogs puppy puppies",
        "horse horses",
        "bird birds",
        "man men woman women boy boys girl girls people person child children kid kids",
    ),
    "number": ("two", "three", "four five six seven", "group several many crowd people"),
    "colour": (
        "black dark",
        "white",
        "brown tan golden blond blonde beige yellow chocolate",
        "grey gray silver",
        "red",
        "blue",
        "green",
        "pink purple lavender",
        "orange",
    ),
    "place": (
        "grass grassy field lawn yard park backyard meadow",
        "snow snowy snowboarder ice icy",
        "beach sand sandy shore",
        "water ocean sea lake river pool stream pond creek waves wave swims swimming puddle",
        "street road sidewalk city path trail",
        "mountain mountains rock rocks rocky cliff climber climbs climbing hill",
        "woods forest trees wooded tree",
        "indoors room bed couch floor kitchen inside",
    ),
    "action": (
        "run runs running race racing races chases chasing ran",
        "jump jumps jumping leaps leaping leap midair air",
        "swim swims swimming",
        "sit sits sitting seated",
        "stand stands standing",
        "walk walks walking",
        "play plays playing",
        "fight fights fighting wrestling wrestle bites",
        "climb climbs climbing",
        "ride rides riding rider",
        "smile smiles smiling",
        "looks looking look",
        "lay lays laying lies lying sleeping",
        "hold holds holding carries carrying mouth",
    ),
    "thing": (
        "ball",
        "frisbee",
        "stick",
        "bike bicycle bmx biker",
        "motorcycle motorbike motocross dirt",
        "skateboard skateboarder",
        "surfboard surfer surfing",
        "swing",
        "toy",
        "bench",
        "car",
        "camera",
        "hat",
        "shirt",
        "guitar",
    ),
}
"""Kinds of things that English captions of everyday photos name; of each kind, groups of words for the same."""

KIND_TERMS = tuple(f"{kind} {term}" for kind in KINDS for term in ("added", "omitted", "contradicted"))

_GROUPS = tuple(frozenset(group.split()) for groups in KINDS.values() for group in groups)

_GROUPS_OF = {
    word: [place for place, group in enumerate(_GROUPS) if word in group] for word in frozenset().union(*_GROUPS)
}

_ENDS = tuple(accumulate(len(groups) for groups in KINDS.values()))

_PLACES = tuple(slice(end - len(groups), end) for end, groups in zip(_ENDS, KINDS.values(), strict=True))


def named_groups(captions: Sequence[str]) -> Tensor:
    """Which groups of ``KINDS`` each of T captions names, one after the other, float32 of 0 and 1 [T, G]."""
    found = np.zeros((len(captions), len(_GROUPS)), np.float32)
    for row, named in zip(found, map(words, captions), strict=True):
        for word in named:
            if word in _GROUPS_OF:
                row[_GROUPS_OF[word]] = 1.0
    return torch.from_numpy(found)


def kind_evidence(captions: Tensor, share: Tensor, stated: Tensor) -> Tensor:
    """How far captions agree with pictures on what is named, kind by kind.

    Args:
        captions: groups that each caption names [P, G].
        share: share of its picture's captions that name each group [P, G].
        stated: share of these that name any group of each kind [P, kinds].

    Returns:
        [P, 3 * kinds] in the order of ``KIND_TERMS``. *Added*: over the groups that the caption names, the sum of the
        shares of the picture's captions that do not. *Omitted*: the other way round. *Contradicted*: how many groups it
        names that none of the picture's captions does, times the share of those that name another group of this kind. A
        brown dog is no black dog; a dog of no stated colour may be.
    """
    added, omitted, new = captions * (1 - share), (1 - captions) * share, captions * (share == 0)
    columns = []
    for kind, here in enumerate(_PLACES):
        columns += [added[:, here].sum(dim=1), omitted[:, here].sum(dim=1), new[:, here].sum(dim=1) * stated[:, kind]]
    return torch.stack(columns, dim=1)


def kinds_named(groups: Tensor) -> Tensor:
    """Which kinds captions name any group of, float32 of 0 and 1, from groups [T, G] to [T, kinds]."""
    return torch.stack([groups[:, here].amax(dim=1) for here in _PLACES], dim=1)


WORD_TERMS = ("caption shared", "picture shared", "new", "missing")


class SharedWords:
    """How far the words of captions and of pictures' captions are the same, a rare word counting for more.

    Args:
        gallery: whose captions are meant.
    """

    def __init__(self, gallery: Gallery) -> None:
        own = [sorted({stem(word) for word in words(text) if is_content(word)}) for text in gallery.texts]
        counts = Counter(word for some in own for word in some)
        places = {word: place for place, word in enumerate(counts)}
        starts = np.cumsum([0, *map(len, own)])
        used = np.array([places[word] for some in own for word in some], np.int64)
        shape = (len(own), max(len(places), 1))
        self.captions = csr_array((np.ones(len(used), np.float32), used, starts), shape=shape)
        """Which words each caption has [M, W]."""
        lists = gallery.captions
        weights = np.repeat(1 / np.maximum(lists.counts, 1), lists.counts).astype(np.float32)
        self.pictures = csr_array((weights, lists.values, lists.starts), shape=(len(lists), len(own))) @ self.captions
        """Share of each picture's captions that have each word [N, W]."""
        rarity = [math.log((len(own) + 1) / (count + 1)) for count in counts.values()]
        self.rarity = np.array(rarity or [0.0], np.float32)
        self.worded = float((self.captions.sum(axis=1) > 0).mean())

    def __call__(self, pictures: Integers, captions: Integers) -> Tensor:
        """Signals of cells [P, 4] in the order of ``WORD_TERMS``.

        With each word weighted by its rarity: the share of the caption's words that one of the picture's captions has;
        the share of the words of the picture's captions, each as often as they have it, that the caption has; and the
        sums of what the caption has and none of the picture's captions, and of what these have and it has not. The
        shares are NaN where there are no words.
        """
        asked, said = self.captions[captions], self.pictures[pictures]
        in_caption, in_picture = asked @ self.rarity, said @ self.rarity
        both = asked.multiply(said)  # [P, W]
        shared = both @ self.rarity
        both.data = np.ones_like(both.data)
        common = both @ self.rarity
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = [common / in_caption, shared / in_picture, in_caption - common, in_picture - shared]
        found = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
        return found.masked_fill(found.isinf(), torch.nan)
