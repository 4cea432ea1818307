"""When two captions count as the same text."""

import hashlib
import unicodedata
from functools import lru_cache

# Punctuation in Unicode's books that names something in a caption: "keycap: #", "50% off", "black & white".
_MEANINGFUL = frozenset("#*&@%")
# These stand inside words, so taking them away must not cut the word: "man's", "U.S.".
_WITHIN_WORDS = frozenset(".'`\u2018\u2019\u02bc")
# Captions come back each epoch: those of a small data set are kept. A few megabytes.
_KEPT = 1 << 16


class _Stripped(dict[int, str]):
    """What becomes of a character, by its code point; looked up once for each that occurs (``str.translate``)."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in _WITHIN_WORDS:
            character = ""
        elif unicodedata.category(character).startswith("P") and character not in _MEANINGFUL:
            character = " "
        return self.setdefault(code, character)


_STRIPPED = _Stripped()


@lru_cache(maxsize=_KEPT)
def normalise_caption(text: str) -> str:
    """Lower-case a caption, strip its punctuation, squeeze its spaces.

    Apostrophes and full stops go; other punctuation becomes a space, so that "red,blue" reads as "red, blue" does. The
    signs ``# * & @ %`` stay, because they tell captions apart. A caption of punctuation alone ("?!") keeps it.
    Text is brought to Unicode's composed form (NFC) first. Applying it twice changes nothing.

    Args:
        text: a caption as its source states it.

    Returns:
        The normalised text; empty only if ``text`` is blank.
    """
    composed = unicodedata.normalize("NFC", text.lower())
    # Stripping can bring a letter and an accent together.
    stripped = unicodedata.normalize("NFC", composed.translate(_STRIPPED))
    return " ".join(stripped.split()) or " ".join(composed.split())


@lru_cache(maxsize=_KEPT)
def caption_key(text: str) -> int:
    """Number that is equal for captions of the same normalised text.

    Returns:
        63 bits of a blake2b hash of ``normalise_caption(text)``, a non-negative int64; the same in every process and on
        every machine. Two different texts share a key with probability 2^-63.
    """
    digest = hashlib.blake2b(normalise_caption(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
