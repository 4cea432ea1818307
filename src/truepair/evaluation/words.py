"""Splits English captions into words by the rules of Stanford CoreNLP's PTBTokenizer, without Java.

Figures of captions are computed on what it makes of them: ``-lowerCase``, without the tokens that are punctuation. The
tests hold recorded outputs of it. What captions rarely have (smileys, fractions, names of files) may be split in
another way.
"""

import re

_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_WRITTEN = str.maketrans(
    {"‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... ", "€": "$", "£": "#"}
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
    r"|['’][0-9]0s\b|['’]n['’]|['’]n\b|['’]em\b|\bc\+\+|\b[cf]#"
    r"|\d+:\d\d(?=[ap]m\b)"
    r"|(?<!\w)[-+]?\.?\d+(?:[.,:/-]\d+)*(?![\w/-])|\.?\d+(?:[.,:/-]\d+)*(?![\w/-])"
    r"|[#@][a-z]\w*"
    r"|(?-i:[A-Z]+&[A-Z]+)\b"
    r"|y['’](?=all)|o['’]clocks?|ma['’]am|[odl]['’](?!ll|re|ve)[a-z]{2,}"
    r"|[^\W_]\w*?(?=n['’]t\b)|n['’]t\b"
    r"|\w+(?:[-/.]\w+)*"
    r"|['’](?:s|re|ve|ll|d|m)\b|'t(?=is\b|was\b)"
    r"|\.+|[!?]+|-+|\*+|\S",
    re.IGNORECASE,
)
"""The tokens of a text from left to right; the first kind that fits is taken."""

_CURLY = frozenset(["’", "n’t", "’s", "’re", "’ve", "’ll", "’d", "’m"])
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
        return token.replace("’", "'")
    return _TWO_WORDS.get(token, token)
