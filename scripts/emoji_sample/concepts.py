"""What the drawings show: concepts with their human names and keywords, read from emojibase-data."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .sources import Archive

SHORTCODE_SETS = ("cldr", "emojibase", "emojibase-legacy", "github", "iamcal", "joypixels")
MAX_NAMES = 4
"""A concept is captioned with at most so many of its names."""
MAX_KEYWORDS = 8
"""Its keyword caption lists at most so many keywords."""


@dataclass(frozen=True)
class Concept:
    """One emoji: everything that all its drawings share."""

    group: str
    """Its code points in hexadecimal, joined by hyphens."""
    family: str
    """The code points without gender and presentation signs: "man running" and "person running" are one family."""
    category: str
    subcategory: str
    names: tuple[str, ...]
    """The label, then short codes; no two alike."""
    keywords: tuple[str, ...]
    icon_slugs: frozenset[str]
    """Slugs of the official names alone: chat short codes ("wave") are too ambiguous to find icons with."""

    @property
    def captions(self) -> tuple[str, ...]:
        """The texts that are dealt out over the drawings: some names, and one list of keywords."""
        return distinct([*self.names[:MAX_NAMES], *self._keyword_caption])

    @property
    def true_captions(self) -> tuple[str, ...]:
        """All texts true of the concept's drawings."""
        return distinct([*self.names, *self._keyword_caption])

    @property
    def _keyword_caption(self) -> tuple[str, ...]:
        # One keyword alone ("animal", "building") would also be true of many concepts that do not list it.
        return (", ".join(self.keywords[:MAX_KEYWORDS]),) if len(self.keywords) > 1 else ()


def slug(text: str) -> str:
    """Return `text` in the form of an icon name: lower-case ASCII words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = plain.replace("&", " and ").replace("'", "").replace(".", "").replace("*", "asterisk").replace("#", "hash")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def words(shortcode: str) -> str:
    """Return a short code as words: "grinning_face" becomes "grinning face"."""
    return re.sub(r"[_\-\s]+", " ", shortcode).strip().lower()


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts with a word of two letters or more, each once (alike = same slug), in their order."""
    kept: dict[str, str] = {}
    for text in texts:
        key = slug(text)
        if re.search("[a-z]{2}", key):
            kept.setdefault(key, text)
    return tuple(kept.values())


def family_of(group: str) -> str:
    """Return the code points of `group` without gender and presentation signs."""
    genderless = re.sub(r"-?200D-(2640|2642)(-FE0F)?", "", group)
    unpresented = "-".join(point for point in genderless.split("-") if point != "FE0F")
    return re.sub(r"^(1F468|1F469)(?=-200D-)", "1F9D1", unpresented)  # man or woman X -> person X


def read_concepts(emojibase: Archive) -> dict[str, Concept]:
    """Return all concepts of emojibase-data by group, without skin tones, hair and regional letters."""
    messages = emojibase.read_json("en/messages.json")
    categories = {entry["order"]: entry["key"] for entry in messages["groups"]}
    subcategories = {entry["order"]: entry["key"] for entry in messages["subgroups"]}
    british = {entry["hexcode"]: entry["label"] for entry in emojibase.read_json("en-gb/data.json")}
    shortcodes = {name: emojibase.read_json(f"en/shortcodes/{name}.json") for name in SHORTCODE_SETS}
    concepts = {}
    for entry in emojibase.read_json("en/data.json"):
        if "group" not in entry or categories[entry["group"]] == "component":
            continue
        group = entry["hexcode"]
        codes = {name: _codes_of(table, group) for name, table in shortcodes.items()}
        labels = [entry["label"], british.get(group, entry["label"])]
        concepts[group] = Concept(
            group=group,
            family=family_of(group),
            category=categories[entry["group"]],
            subcategory=subcategories[entry["subgroup"]],
            names=distinct([labels[0], *(code for listed in codes.values() for code in listed), labels[1].lower()]),
            keywords=tuple(entry.get("tags", ())),
            icon_slugs=frozenset(slug(name) for name in [*labels, *codes["cldr"]]),
        )
    return concepts


def _codes_of(table: Mapping[str, Any], group: str) -> list[str]:
    found = table.get(group, [])
    return [words(code) for code in ([found] if isinstance(found, str) else found)]
