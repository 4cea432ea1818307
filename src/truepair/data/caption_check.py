"""What a tokenizer loses of captions: ends that are cut, words that it does not know, texts that become equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from truepair.data.tokens import Tokenization, tells_case
from truepair.relations.text import caption_keys

_AT_ONCE = 16_384  # captions tokenized at once

_ALL = 100_000  # captions that a training run looks at as a whole, which takes seconds

_LOOKED_AT = 25_000  # of more: a share of 1 % is told to within 0.13 %, and no second is spent

WARNED_CUT, WARNED_UNKNOWN, WARNED_EQUAL = 0.1, 0.02, 0.01
"""Shares from which on a line is a warning: of captions that are cut, of unknown tokens, of captions that are equal."""


@dataclass(frozen=True)
class CaptionTokens:
    """How a model reads T distinct texts.

    Attributes:
        cut: whether a text has more tokens than the model reads [T].
        tokens: tokens of each that are read, special ones not counted [T].
        unknown: how many of these stand for unknown words [T].
        equal: whether a text that counts as another one is read as the same tokens [T].
        sharing: number of the texts that are read as the same tokens [T]; equal numbers, equal tokens.
    """

    cut: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    unknown: NDArray[np.int64]
    equal: NDArray[np.bool_]
    sharing: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        tokenization: Tokenization,
        max_length: int,
        texts: Sequence[str],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Self:
        """Tokenize texts.

        Args:
            tokenization: of the model.
            max_length: most tokens that it reads.
            texts: T distinct texts. Two that differ in punctuation alone count as one, see ``caption_key``, and so do
                two that differ in case where the tokenizer does not tell it apart.
            progress: called with (done, all).
        """
        count, unknown_id, special = len(texts), tokenization.unknown, tokenization.special
        cased = tells_case(tokenization)
        cut, tokens, unknown = np.zeros(count, bool), np.zeros(count, np.int64), np.zeros(count, np.int64)
        read, keys = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for start in range(0, count, _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            ids = tokenization.uncut(part)
            long = [place for place, own in enumerate(ids) if len(own) > max_length]
            for place, own in zip(long, tokenization([part[place] for place in long]) if long else (), strict=True):
                cut[start + place] = True
                ids[place] = own
            keys[start : start + len(part)] = caption_keys(part, cased)
            for place, own in enumerate(ids, start):
                tokens[place] = sum(token not in special for token in own)
                unknown[place] = 0 if unknown_id is None else own.count(unknown_id)
                read[place] = hash(tuple(own))  # 64 bits, the same in every process: the ids are integers
            progress(min(start + _AT_ONCE, count), count)
        _, sharing = np.unique(read, return_inverse=True)
        meant = np.unique(np.stack([sharing, keys]), axis=1)[0]  # one entry for each text that is read so
        return cls(cut, tokens, unknown, np.bincount(meant)[sharing] > 1 if count else cut, sharing)


@dataclass(frozen=True)
class CaptionCheck:
    """What a tokenizer loses of captions, in figures.

    Attributes:
        captions: how many were looked at.
        among: how many there are.
        max_length: most tokens that the model reads.
        cut: captions that have more.
        unknown: captions that hold words which the tokenizer does not know.
        unknown_share: share of such words among all tokens.
        equal: captions that are read as the same tokens as a different caption.
        equal_uncut: those of them that are equal without having been cut, as their words are unknown or spelled alike.
    """

    captions: int
    among: int
    max_length: int
    cut: int
    unknown: int
    unknown_share: float
    equal: int
    equal_uncut: int

    @classmethod
    def of(cls, found: CaptionTokens, stated: NDArray[np.int64], max_length: int, among: int | None = None) -> Self:
        """Count the captions.

        Args:
            found: of the distinct texts.
            stated: how many captions each of them is [T].
            max_length: most tokens that the model reads.
            among: how many captions there are, where these are only some; None for all.
        """
        cut_somewhere = np.zeros(int(found.sharing.max(initial=-1)) + 1, bool)
        cut_somewhere[found.sharing[found.cut]] = True
        uncut = found.equal & ~cut_somewhere[found.sharing]
        return cls(
            captions=int(stated.sum()),
            among=int(stated.sum()) if among is None else among,
            max_length=max_length,
            cut=int(stated[found.cut].sum()),
            unknown=int(stated[found.unknown > 0].sum()),
            unknown_share=float((stated * found.unknown).sum() / max((stated * found.tokens).sum(), 1)),
            equal=int(stated[found.equal].sum()),
            equal_uncut=int(stated[uncut].sum()),
        )

    def lines(self, *, length: str, tokenizer: str, captions: str = "captions", cut: bool = True) -> list[str]:
        """A line for each thing that is lost, a warning where it is much; nothing where nothing is lost.

        Args:
            length: the field that says how many tokens are read.
            tokenizer: what to do about words that the tokenizer does not know.
            captions: what the texts are, for people.
            cut: whether to tell what is cut.
        """
        looked_at = f" looked at, of {self.among:,}," if self.among > self.captions else ""
        of_all = f"of {self.captions:,} {captions}{looked_at}"
        beyond = [f"raise {length}"] if self.equal > self.equal_uncut else []
        beside = [tokenizer] if self.equal_uncut and self.unknown else []
        remedy = ", or ".join(beyond + beside)
        told = [
            (
                self.cut if cut else 0,
                self.cut / max(self.captions, 1) >= WARNED_CUT,
                f"have more than {self.max_length} tokens, and lose their end; see {length}, or shorten them",
            ),
            (
                self.unknown,
                self.unknown_share >= WARNED_UNKNOWN,
                f"hold words that the tokenizer does not know, {self.unknown_share:.1%} of all tokens: the model sees "
                f"one and the same sign for each; {tokenizer}",
            ),
            (
                self.equal,
                self.equal / max(self.captions, 1) >= WARNED_EQUAL,
                "differ from another one, and are the same tokens to the model, which learns contradictions from them"
                + (f"; {remedy}" if remedy else ""),
            ),
        ]
        return [f"{'warning: ' if much else ''}{count:,} {of_all} {what}" for count, much, what in told if count]


def look_step(count: int) -> int:
    """Of so many captions, every how many-th a training run looks at: 1 of up to 100,000, then fewer."""
    return 1 if count <= _ALL else -(-count // _LOOKED_AT)


def check_captions(
    tokenization: Tokenization, max_length: int, captions: Sequence[str], among: int | None = None
) -> tuple[CaptionCheck, list[int]]:
    """Look at captions of a training run.

    Args:
        tokenization: of the model.
        max_length: most tokens that it reads.
        captions: those to look at, repeated ones as often as they are stated; see :func:`look_step`.
        among: how many there are, where these are only some; None for all. Two that are equal to the model are told
            where both are among those.

    Returns:
        The figures, and the places of the captions that are cut.
    """
    stated: dict[str, int] = {}
    for caption in captions:
        stated[caption] = stated.get(caption, 0) + 1
    found = CaptionTokens.of(tokenization, max_length, list(stated))
    cut = dict(zip(stated, found.cut.tolist(), strict=True))
    counts = np.fromiter(stated.values(), np.int64, len(stated))
    check = CaptionCheck.of(found, counts, max_length, among)
    return check, [place for place, caption in enumerate(captions) if cut[caption]]
