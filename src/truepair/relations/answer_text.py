"""When two answers to a question count as the same: the normalisation of the VQA evaluation."""

import re
from itertools import product

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
