"""When two captions, or two answers to a question, count as the same text."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, compress, product

import numpy as np
from numpy.typing import NDArray

# Punctuation in Unicode's books that names something in a caption: "keycap: #", "50% off", "black & white".
_MEANINGFUL = frozenset("#*&@%\u2030\u00a7")

# These stand inside words, so taking them away must not cut the word: "man's", "U.S.".
_WITHIN_WORDS = frozenset(".'`\u2018\u2019\u02bc")

# Captions come back each epoch: those of a small data set are kept. A few megabytes.
_KEPT = 1 << 16


class _Stripped(dict[int, str]):
    """What becomes of a character, by its code point; looked up once for each that occurs (``str.translate``)."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character.isspace() and character != "\n":
            character = " "
        elif character in _WITHIN_WORDS:
            character = ""
        elif unicodedata.category(character).startswith("P") and character not in _MEANINGFUL:
            character = " "
        return self.setdefault(code, character)


_STRIPPED = _Stripped()


@lru_cache(maxsize=_KEPT)
def normalise_caption(text: str, cased: bool = False) -> str:
    """Lower-case a caption, strip its punctuation, squeeze its spaces.

    Apostrophes and full stops go; other punctuation becomes a space, so that "red,blue" reads as "red, blue" does. The
    signs ``# * & @ %`` stay, because they tell captions apart. A caption of punctuation alone ("?!") keeps it.
    Text is brought to Unicode's composed form (NFC) first. Applying it twice changes nothing.

    Args:
        text: a caption as its source states it.
        cased: leave upper and lower case as they are.

    Returns:
        The normalised text; empty only if ``text`` is blank.
    """
    composed = unicodedata.normalize("NFC", text if cased else text.lower())
    # Stripping can bring a letter and an accent together.
    stripped = unicodedata.normalize("NFC", composed.translate(_STRIPPED))
    return " ".join(stripped.split()) or " ".join(composed.split())


# Dashes that stand for a minus or for "to" beside numbers.
_DASHES = re.compile("[\u2010-\u2013\u2212]")

_GRADE = re.compile(r"\b(AB|[A-Z])[-\u2212](?=[\s.,;:!?)]|$)")  # "blood type A-", beside "A+"

# A number, as far as marks belong to it: "-5", ".5", "1,000", "3.5:1", "12/05", "5-10"; spaces around such a mark count
# as none.
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<!\w)(?<!\w[.'])-?(?:(?<![.\w])\.)?)?
    \d+(?:(?:[^\w\s]+|\s+[-/:]\s+)\d+)*
    (?P<length>['"])?
    """,
    re.VERBOSE,
)

# Where an ASCII caption may be more than its plain words: a mark beside a digit, spaces aside, or behind a capital.
_MAY_MEAN_MORE = re.compile(r"\d\s*[^\w\s]|[^\w\s]\s*\d|[A-Z]-")

# Marks of a number are written as these while others are stripped.
_HELD = {mark: chr(0xE000 + place) for place, mark in enumerate(map(chr, range(33, 127))) if not mark.isalnum()}

_RELEASED = str.maketrans({held: mark for mark, held in _HELD.items()})

_QUOTES = str.maketrans("\u2019\u2032\u201c\u201d\u2033", '\'\'"""')


def _hold_number(match: re.Match[str]) -> str:
    """A number whose marks will not be stripped; a quotation mark behind it is one of length, unless it closes."""
    number, length = match[0], match["length"] or ""
    if length:
        before = match.string[: match.start()]
        opened = len(re.findall(r"(?<!\w)'" if length == "'" else length, before)) % 2
        if opened or match.string[match.end() :][:1].isalnum():
            number = number[:-1]
        else:
            length = ""
    return "".join(_HELD.get(mark, mark) for mark in number if not mark.isspace()) + length


@lru_cache(maxsize=_KEPT)
def identity_of_caption(text: str, cased: bool = False) -> str:
    """What of a caption tells it apart from others: captions with the same are the same.

    Case, punctuation and spaces do not count, as in :func:`normalise_caption`, but where they carry a meaning: the
    marks of numbers ("1.5" is not "15", "-5" not "5", "5-10" not "5 10", 5' not 5"), "A-" beside "A+", and the signs
    that :func:`normalise_caption` keeps. Applying it twice changes nothing.

    Args:
        text: a caption as its source states it.
        cased: upper and lower case count as well, as for a model whose tokenizer tells them apart ("US" is not "us").

    Returns:
        Empty only if ``text`` is blank.
    """
    if text.isascii() and not _MAY_MEAN_MORE.search(text):
        return normalise_caption(text, cased)
    marked = _GRADE.sub("\\1\u207b", text)
    if not any(map(str.isdecimal, marked)):
        return normalise_caption(marked, cased)
    while True:
        plain = _DASHES.sub("-", marked.translate(_QUOTES))
        plain = unicodedata.normalize("NFC", plain if cased else plain.lower())
        found = normalise_caption(_NUMBER.sub(_hold_number, plain), cased).translate(_RELEASED)
        if found == marked:
            return found
        marked = found


@lru_cache(maxsize=_KEPT)
def caption_key(text: str, cased: bool = False) -> int:
    """Number that is equal for captions that are the same, as :func:`identity_of_caption` has it.

    Of the captions of a table, ``PairTable.caption_key`` gives it: the table knows whether its reader tells case apart.

    Returns:
        63 bits of a blake2b hash of ``identity_of_caption(text, cased)``, a non-negative int64; the same in every
        process and on every machine. Two different texts share a key with probability 2^-63.
    """
    identity = identity_of_caption(text, cased)
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# Kinds of ASCII characters, by which captions are found that may be more than their plain words: a digit, a capital,
# a mark, anything else; spaces are gone.
_KINDS = str.maketrans(
    {
        character: "" if character.isspace() else "0" if character.isdigit() else "A" if character.isupper() else "a"
        for character in map(chr, range(128))
    }
    | {character: "-" for character in map(chr, range(128)) if re.match(r"[^\w\s]", character)}
    | {"\n": "\n"}
)

# The same of other captions.
_MAY_MEAN_MORE_BEYOND_ASCII = re.compile(r"\d|[A-Z][-\u2212]|\n")

_AT_ONCE = 1 << 14  # captions that are one text meanwhile


def caption_keys(texts: Sequence[str], cased: bool = False) -> NDArray[np.int64]:
    """The :func:`caption_key` of many captions, in a third of the time.

    Those that are no more than their plain words, which nearly all are, become one text, a line each, and are
    normalised together.

    Args:
        texts: N captions.
        cased: as for :func:`caption_key`.

    Returns:
        Their keys, int64 [N].
    """
    parts = [_keys(texts[start : start + _AT_ONCE], cased) for start in range(0, len(texts), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def identities_of_captions(texts: Sequence[str], cased: bool = False) -> list[str]:
    """The :func:`identity_of_caption` of many captions [N], as :func:`caption_keys` makes them."""
    parts = (_identities(texts[start : start + _AT_ONCE], cased) for start in range(0, len(texts), _AT_ONCE))
    return list(chain.from_iterable(parts))


def _identities(texts: Sequence[str], cased: bool) -> list[str]:
    plain = _are_plain(texts)
    lines = iter(_normalised_lines(list(compress(texts, plain)), cased))
    return [
        (is_plain and next(lines)) or identity_of_caption(text, cased)
        for text, is_plain in zip(texts, plain, strict=True)
    ]


def _keys(texts: Sequence[str], cased: bool) -> NDArray[np.int64]:
    """The keys of some captions [N]."""
    digests = [
        hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for identity in _identities(texts, cased)
    ]
    return (np.frombuffer(b"".join(digests), ">u8") >> np.uint64(1)).astype(np.int64)


def _are_plain(texts: Sequence[str]) -> list[bool]:
    """Which captions are the same whenever their ``normalise_caption`` is, and hold no line break; a few are missed."""
    block = "\n".join(texts)
    if not block.isascii():
        ascii_texts = [text for text in texts if text.isascii()]
        found = iter(_are_plain(ascii_texts))
        return [next(found) if text.isascii() else not _MAY_MEAN_MORE_BEYOND_ASCII.search(text) for text in texts]
    kinds = block.translate(_KINDS).split("\n")
    if len(kinds) > len(texts):  # somewhere a line breaks
        return ["\n" not in text and not _MAY_MEAN_MORE.search(text) for text in texts]
    return ["0-" not in line and "-0" not in line and "A-" not in line for line in kinds]


def _normalised_lines(texts: Sequence[str], cased: bool) -> list[str]:
    """``normalise_caption`` of captions without line breaks; empty where nothing but punctuation was there."""
    if not texts:
        return []
    block = "\n".join(texts)
    composed = unicodedata.normalize("NFC", block if cased else block.lower())
    stripped = unicodedata.normalize("NFC", composed.translate(_STRIPPED))  # of all spaces, " " and "\n" are left
    while "  " in stripped:
        stripped = stripped.replace("  ", " ")
    return stripped.replace(" \n", "\n").replace("\n ", "\n").strip(" ").split("\n")


UNSTATED = ""
"""Stands among people's answers to a question for one that the data do not state: it agrees with no other."""

_MARKS = ';/[]"{}()=+\\_-><@`,?!'

_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_FULL_STOP = re.compile(r"\.(?!\d)")

_ARTICLES = frozenset(("a", "an", "the"))

_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

# Contractions whose form without the apostrophe is no other English word ("well", "shell", "its" stay as they are).
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's
    how'd how'll how's i'd've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_apostrophes(word: str) -> set[str]:
    """The word in every way of leaving out one or more of its apostrophes."""
    first, *rest = word.split("'")
    ways = product(("", "'"), repeat=len(rest))
    return {first + "".join(mark + part for mark, part in zip(marks, rest, strict=True)) for marks in ways} - {word}


_COMPLETED = {short: word for word in _CONTRACTIONS.split() for short in _without_apostrophes(word)}


def normalise_answer(text: str) -> str:
    """Normalise an answer as the evaluation of VQA describes it (Antol et al., ICCV 2015; visualqa.org/evaluation).

    Lower case; no full stops but those of decimals; number words as digits; no articles; missing apostrophes of
    contractions put in; other punctuation, but for apostrophe and colon, becomes a space. As in the evaluation program,
    a mark that stands beside a space anywhere in the answer is deleted instead, and so is every mark of an answer with
    a comma between digits ("1,000").

    Returns:
        The normalised answer; empty if nothing but articles and punctuation was there.
    """
    text = " ".join(text.split())
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    joined = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        joined = joined.replace(mark, "" if beside_space or in_number else " ")
    words = [_DIGITS.get(word, word) for word in _FULL_STOP.sub("", joined).lower().split()]
    return " ".join(_COMPLETED.get(word, word) for word in words if word not in _ARTICLES)
