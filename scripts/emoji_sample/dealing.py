"""Which caption a drawing comes with, and which split it is in: pure functions of names, by hash."""

import hashlib
from collections.abc import Iterable, Sequence

VALIDATION_CONCEPTS = 0.25
"""Share of the concepts that have a drawing in "val"."""


def fraction(*keys: str) -> float:
    """Return a number in [0, 1) that is a hash of the keys."""
    digest = hashlib.blake2b("\x1f".join(keys).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def deal_captions(group: str, vendors: Iterable[str], captions: Sequence[str]) -> dict[str, str]:
    """Return one caption for each vendor's drawing: every caption in turn, so that all are used equally often.

    The drawings' order and the first caption depend on hashes: no vendor and no caption is favoured.
    """
    order = _shuffled("deal", group, vendors)
    start = int(fraction("first caption", group) * len(captions))
    return {vendor: captions[(start + turn) % len(captions)] for turn, vendor in enumerate(order)}


def assign_splits(group: str, vendors: Iterable[str]) -> dict[str, str]:
    """Return the split of each vendor's drawing: one "test", in some concepts one "val", all others "train"."""
    order = _shuffled("split", group, vendors)
    splits = dict.fromkeys(order, "train")
    splits[order[0]] = "test"
    if fraction("validation", group) < VALIDATION_CONCEPTS:
        splits[order[1]] = "val"
    return splits


def concept_split(group: str) -> str:
    """Return the split of the whole concept, for studies of unseen concepts: 80 % "train", 10 % "val", 10 % "test"."""
    place = fraction("split_concept", group)
    return "test" if place < 0.1 else "val" if place < 0.2 else "train"


def _shuffled(purpose: str, group: str, vendors: Iterable[str]) -> list[str]:
    return sorted(vendors, key=lambda vendor: (fraction(purpose, group, vendor), vendor))
