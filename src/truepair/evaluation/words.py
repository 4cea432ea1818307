"""Splits English captions into words by the rules of Stanford CoreNLP's PTBTokenizer, without Java.

Figures of captions are computed on what it makes of them: ``-lowerCase``, without the tokens that are punctuation. The
tests hold recorded outputs of it. What captions rarely have (smileys, fractions, names of files) may be split in
another way.
"""

import re

_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_WRITTEN = str.maketrans(
    {
        "\u2018": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": " -- ",
        "\u2014": " -- ",
        "\u2026": " ... ",
        "€": "$",
        "£": "#",
    }
    | dict.fromkeys("\u00ad\u200b\ufeff")
)

_SYMBOLS = re.compile("[\U00010000-\U0010ffff]")  # emoji, which it passes over

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

# Words whose full stop belongs to them.
_ABBREVIATIONS = (
    "mr|mrs|ms|mme|messrs|dr|st|jr|sr|vs|etc|prof|rev|gen|sen|gov|hon|lt|col|sgt|maj|adm|capt|inc|ltd|co|corp|bros|dept|"
    r"univ|est|ave|blvd|rd|mt|ft|sq|tel|nos|p|pp|jan|feb|mar|apr|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|calif|"
    r"ph\.d"
)

_TOKEN = re.compile(
    r"(?:https?://|www\.)\S+"
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # addresses of mail
    r"|</?[a-z][^<>]*>"
    rf"|\b(?:{_ABBREVIATIONS})\.(?!\w)"
    r"|\b(?:no|fig)\.(?=\s*\d)"
    r"|\b[a-z](?:\.[a-z])+\.?(?!\w)"  # u.s.
    r"|\b[a-z]\.(?!\w)"  # initials
    r"|['\u2019][0-9]0s\b|['\u2019]n['\u2019]|['\u2019]n\b|['\u2019]em\b|\bc\+\+|\b[cf]#"
    r"|\d+:\d\d(?=[ap]m\b)"
    r"|(?<!\w)[-+]?\.?\d+(?:[.,:/-]\d+)*(?![\w/-])|\.?\d+(?:[.,:/-]\d+)*(?![\w/-])"
    r"|[#@][a-z]\w*"
    r"|(?-i:[A-Z]+&[A-Z]+)\b"
    r"|y['\u2019](?=all)|o['\u2019]clocks?|ma['\u2019]am|[odl]['\u2019](?!ll|re|ve)[a-z]{2,}"
    r"|[^\W_]\w*?(?=n['\u2019]t\b)|n['\u2019]t\b"
    r"|\w+(?:[-/.]\w+)*"
    r"|['\u2019](?:s|re|ve|ll|d|m)\b|'t(?=is\b|was\b)"
    r"|\.+|[!?]+|-+|\*+|\S",
    re.IGNORECASE,
)
"""The tokens of a text from left to right; the first kind that fits is taken."""

_CURLY = frozenset(["\u2019", "n\u2019t", "\u2019s", "\u2019re", "\u2019ve", "\u2019ll", "\u2019d", "\u2019m"])
"""Tokens whose apostrophe it makes straight; in others it stays."""

_TWO_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
}


def split_words(caption: str) -> str:
    """The words of a caption, lower-cased, with a space between each two; punctuation is left out."""
    written = _SYMBOLS.sub(" ", caption.translate(_WRITTEN))
    tokens = (_named(token) for token in _TOKEN.findall(written))
    return " ".join(token for token in tokens if token not in _PUNCTUATION and token != '"')


def _named(token: str) -> str:
    """A token as PTBTokenizer writes it."""
    token = token.lower()
    if token in _BRACKETS:
        return _BRACKETS[token]
    if set(token) <= {"."}:
        return "."
    if set(token) <= {"-"}:
        return "-"
    if token in _CURLY:
        return token.replace("\u2019", "'")
    return _TWO_WORDS.get(token, token)
