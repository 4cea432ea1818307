"""Which icon of which vendor draws which concept."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .concepts import Concept
from .sources import Archive

FLAT, SHADED = "fluent-emoji-flat", "fluent-emoji"
NAMED_ONLY = {SHADED, "emojione", "fxemoji", "noto-v1"}
"""The packages of these sets state no code points: icons are looked up by name."""
UNHYPHENATED = "fxemoji"
"""This set runs the words of its icon names together."""
UNHYPHENATED_ICONS = {
    "1F3D7": "construction",
    "1F401": "mouseside",
    "1F405": "tigerside",
    "1F406": "leopardside",
    "1F407": "bunnyside",
    "1F408": "catside",
    "1F409": "dragonside",
    "1F415": "dogside",
    "1F416": "pigside",
    "1F42D": "mouse",
    "1F42F": "tiger",
    "1F431": "cat",
    "1F436": "dog",
    "1F437": "pig",
    "1F477": "construct",
    "1F576": "darksunglasses",
    "1F60E": "sunglasses",
    "1F6A7": "constructionsign",
    "2328": "wiredkeyboard",
}
"""Its icons whose names suggest another concept, by code points; found by looking at the drawings."""


@dataclass(frozen=True)
class IconSet:
    """The icons of one vendor, in Iconify's JSON form."""

    vendor: str
    data: Mapping[str, Any]
    characters: Mapping[str, str]
    """Icon names by code points, as far as stated."""
    match_names: bool
    """Whether concepts without a stated icon are looked up by name."""

    def stated_icon(self, group: str) -> str | None:
        """Return the icon name the set states for the code points, with or without the presentation sign."""
        return next((self.characters[key] for key in _spellings(group) if key in self.characters), None)

    def plain_aliases_of(self, icon: str) -> set[str]:
        """Return other names of `icon` that mean the same drawing, neither turned nor flipped."""
        aliases = self.data.get("aliases", {})
        return {name for name, alias in aliases.items() if alias == {"parent": icon}}

    def icon_named(self, slugs: Iterable[str]) -> str | None:
        """Return the first icon that bears one of the names, or a plain alias of one."""
        icons, aliases = self.data["icons"], self.data.get("aliases", {})
        for slug in sorted(slugs):
            name = slug.replace("-", "") if self.vendor == UNHYPHENATED else slug
            if name in icons and not icons[name].get("hidden"):
                return name
            alias = aliases.get(name, {})
            if alias.keys() == {"parent"} and alias["parent"] in icons:
                return str(alias["parent"])
        return None


def _spellings(group: str) -> list[str]:
    return sorted({group, group.replace("-FE0F", "")})


def read_icon_sets(archives: Mapping[str, Archive]) -> dict[str, IconSet]:
    """Return the icon set of each vendor."""
    characters = {}
    for vendor, archive in archives.items():
        # Fluent's two styles share icon names, and only the flat package states code points.
        source = archives[FLAT] if vendor == SHADED else archive
        stated = UNHYPHENATED_ICONS if vendor == UNHYPHENATED else source.read_json("chars.json")
        characters[vendor] = {points.upper(): name for points, name in stated.items()}
    return {
        vendor: IconSet(
            vendor,
            archive.read_json("icons.json"),
            characters[vendor],
            match_names=vendor in NAMED_ONLY,
        )
        for vendor, archive in archives.items()
    }


def match_icons(concepts: Mapping[str, Concept], sets: Mapping[str, IconSet]) -> dict[str, dict[str, str]]:
    """Return icon names by group and vendor; an icon that several concepts claim is given to none of them."""
    claims: dict[str, dict[str, str]] = {vendor: {} for vendor in sets}
    for group, concept in concepts.items():
        slugs = concept.icon_slugs | _names_elsewhere(group, sets.values())
        for vendor, icons in sets.items():
            name = icons.stated_icon(group)
            if name is None and icons.match_names:
                name = icons.icon_named(slugs)
            if name in icons.data["icons"]:
                claims[vendor][group] = str(name)
    matched: dict[str, dict[str, str]] = {}
    for vendor in sorted(claims):
        times = Counter(claims[vendor].values())
        for group, name in claims[vendor].items():
            if times[name] == 1:
                matched.setdefault(group, {})[vendor] = name
    return matched


def _names_elsewhere(group: str, sets: Iterable[IconSet]) -> set[str]:
    """Names, old ones too, that the sets with stated code points give this concept."""
    names = set()
    for icons in sets:
        if icons.vendor != UNHYPHENATED and (name := icons.stated_icon(group)) is not None:
            names |= {name, *icons.plain_aliases_of(name)}
    return names
