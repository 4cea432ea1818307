"""The drawings that questions and statements are about, with what is known of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.randomness import stable_hash
from truepair.relations.text import normalise_caption

SPLITS = ("train", "val", "test")

_COLUMNS = ("group", "category", "names")


@dataclass(frozen=True)
class Drawing:
    """One drawing of a concept.

    Attributes:
        row: its row of the table.
        image_id: of the table.
        group: the concept.
        category: wide class of the concept, in words: "food drink".
        names: the normalised names of the concept, the usual one first.
    """

    row: int
    image_id: int
    group: str
    category: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The usual name."""
        return self.names[0]


def read_drawings(table: PairTable, split: str) -> list[Drawing]:
    """The drawings of a split, by row.

    Raises:
        DataError: the table lacks what questions are made of, or the split.
    """
    missing = set(_COLUMNS) - set(table.rows.column_names)
    if missing:
        raise DataError(f"{table.name} has no column {min(missing)}; questions are made of the bundled sample alone")
    columns = {name: table.values(name) for name in ("split", "image_id", *_COLUMNS)}
    found = [
        Drawing(
            row,
            columns["image_id"][row],
            columns["group"][row],
            normalise_caption(columns["category"][row]),
            # Names with a comma are lists of keywords.
            tuple(dict.fromkeys(normalise_caption(name) for name in columns["names"][row] if "," not in name)),
        )
        for row, name in enumerate(columns["split"])
        if name == split
    ]
    if not found:
        raise DataError(f"{table.name} has no split '{split}'; it has {', '.join(table.splits)}")
    return found


def shuffled(drawings: Iterable[Drawing], *keys: int | str) -> list[Drawing]:
    """The drawings in an order that depends on the keys and on each drawing alone."""
    return sorted(drawings, key=lambda drawing: stable_hash(*keys, drawing.group, drawing.image_id))


def different(first: Drawing, second: Drawing) -> bool:
    """Whether neither concept goes by the usual name of the other."""
    return first.name not in second.names and second.name not in first.names


def partners(drawings: Sequence[Drawing], *keys: int | str) -> list[tuple[Drawing, Drawing]]:
    """Pairs of different concepts of one category; each drawing is in one pair, but for those left over.

    Args:
        drawings: to be paired.
        keys: of the shuffle.
    """
    by_category: dict[str, list[Drawing]] = {}
    for drawing in shuffled(drawings, *keys):
        by_category.setdefault(drawing.category, []).append(drawing)
    pairs = []
    for category in sorted(by_category):
        waiting: list[Drawing] = []
        for drawing in by_category[category]:
            other = next((each for each in waiting if different(each, drawing)), None)
            if other is None:
                waiting.append(drawing)
            else:
                waiting.remove(other)
                pairs.append((other, drawing))
    return pairs
