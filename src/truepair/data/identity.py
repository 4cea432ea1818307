"""What the rows of a table say about which pairs match each other, and which pictures are the same."""

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from truepair.data.table import PairTable, hash_ids
from truepair.randomness import stable_hash

_NAMED = 3  # contradictions that are named


def match_keys(table: PairTable, captions: str) -> NDArray[np.int64]:
    """Keys of each row: rows with the same picture, or with the same caption, share one.

    A row of which several captions may be drawn has no caption key (-1); its captions may repeat those of other rows
    in one epoch and not in the next, which the losses see.

    Args:
        table: the training rows.
        captions: "draw", "first" or "pairs", as in ``DataConfig``.

    Returns:
        Picture key and caption key of each row, int64 [N, 2]; see ``KnownMatches``.
    """
    pictures = table.picture_keys  # [N]
    counts = table.caption_counts  # [N]
    texts = np.full(len(table), -1, np.int64)
    known = np.flatnonzero(counts == 1) if captions == "draw" else np.arange(len(table))
    texts[known] = table.first_caption_keys(known)
    return np.stack([pictures, texts], axis=1)


def contradictions(table: PairTable) -> list[str]:
    """Where ids and pictures disagree, a line each, with how many and the first few; what is not there is not asked.

    An image id that stands for several pictures, and pictures that stand under several ids or in several files. In
    both cases all these rows count as one picture.
    """
    contents, ids = table.contents, table.image_ids  # ids: [N]
    shown = contents.shown[contents.number]  # [N]
    lines = []
    of_two = _with_several(ids, shown)
    if len(of_two):
        named = [f"{number}: {_named(table, np.flatnonzero(ids == number), shown)}" for number in of_two[:_NAMED]]
        lines.append(
            f"{table.name}: {_count(of_two, 'image id stands', 'image ids stand')} for several pictures "
            f"({_listed(named, of_two, '; ')}); all rows of an id count as one picture: repair them, or set derive_ids"
        )
    of_several = np.union1d(_with_several(shown, ids), _with_several(shown, contents.number))
    if len(of_several):
        first = [np.flatnonzero(shown == number) for number in of_several[:_NAMED]]
        named = [_copies(table, rows, contents.number) for rows in first]
        effect = "count as several pictures" if contents.identity == "id" else "count as one picture each"
        lines.append(
            f"{table.name}: {_count(of_several, 'picture stands', 'pictures stand')} under several ids or in several "
            f"files ({_listed(named, of_several, '; ')}); they {effect} (data.identity: {contents.identity})"
        )
    return lines


def concept_labels(table: PairTable) -> NDArray[np.int64] | None:
    """What each row shows, from the ``group`` column, int64 [N] with -1 where it is not known; None without it."""
    if "group" not in table.rows.column_names:
        return None
    numbers: dict[str, int] = {}
    labels = [-1 if group is None else numbers.setdefault(group, len(numbers)) for group in table.values("group")]
    return np.asarray(labels, np.int64)


def held_out(table: PairTable, share: float, purpose: str = "held out") -> NDArray[np.bool_]:
    """Which rows belong to a share of the pictures that a hash chooses, bool [N]; a smaller share is part of a larger.

    Args:
        table: the rows.
        share: of the pictures, in [0, 1).
        purpose: other pictures are chosen for another one.
    """
    hashed = hash_ids(table.picture_keys, stable_hash(purpose))  # [N], 63 bits
    return hashed < int(share * 2**63)


def shared_pictures(table: PairTable, other: PairTable) -> int:
    """How many rows of a table show a picture of another: one with its image id, its file or its bytes."""
    return int(table.shows_pictures_of(other).sum())


def _with_several(keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The keys [N] that come with several values [N], in the order in which they first occur."""
    _, number = np.unique(values, return_inverse=True)
    known, first, of_row = np.unique(keys, return_index=True, return_inverse=True)
    cells = np.unique(of_row * (number.max(initial=0) + 1) + number)
    several = np.flatnonzero(np.bincount(cells // (number.max(initial=0) + 1), minlength=len(known)) > 1)
    return np.asarray(known[several[np.argsort(first[several])]], np.int64)


def _named(table: PairTable, rows: NDArray[np.int64], apart: NDArray[np.int64]) -> str:
    """The pictures of some rows that a number tells apart, by their files or rows."""
    _, first = np.unique(apart[rows], return_index=True)
    chosen = rows[np.sort(first)][: _NAMED + 1].tolist()
    images = table.rows.select_columns(["image"])[chosen]["image"]
    names = [
        f"row {row}" if image.get("path") is None or image.get("bytes") is not None else image["path"]
        for row, image in zip(chosen, images, strict=True)
    ]
    return _listed(names[:_NAMED], first)


def _copies(table: PairTable, rows: NDArray[np.int64], number: NDArray[np.int64]) -> str:
    """A picture by its files, or if it has one by that and its ids."""
    if len(np.unique(number[rows])) > 1:
        return f"{_named(table, rows, number)}"
    ids = table.image_ids[np.sort(rows)]
    ids = ids[np.sort(np.unique(ids, return_index=True)[1])]
    return f"{_named(table, rows[:1], number)}: ids {_listed(ids[:_NAMED].tolist(), ids)}"


def _listed(named: Sequence[object], every: Sized, between: str = ", ") -> str:
    """The first of some things, and how many more there are."""
    more = [f"and {len(every) - len(named):,} more"] if len(every) > len(named) else []
    return between.join([*map(str, named), *more])


def _count(things: Sized, one: str, several: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else several}"
