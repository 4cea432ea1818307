"""What the rows of a table say about which pairs match each other, and which pictures are the same."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from truepair.data.table import PairTable, hash_ids
from truepair.randomness import stable_hash
from truepair.relations.text import caption_key


def match_keys(table: PairTable, captions: str) -> NDArray[np.int64]:
    """Keys of each row: rows with the same image, or with the same caption, share one.

    A row of which several captions may be drawn has no caption key (-1); its captions may repeat those of other rows
    in one epoch and not in the next, which the losses see.

    Args:
        table: the training rows.
        captions: "draw", "first" or "pairs", as in ``DataConfig``.

    Returns:
        Image key and caption key of each row, int64 [N, 2]; see ``KnownMatches``.
    """
    images = table.image_ids  # [N]
    counts = table.caption_counts  # [N]
    texts = np.full(len(table), -1, np.int64)
    known = np.flatnonzero(counts == 1) if captions == "draw" else np.arange(len(table))
    texts[known] = np.fromiter(map(caption_key, table.first_captions(known)), np.int64, len(known))
    return np.stack([images, texts], axis=1)


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
    """How many rows of a table show a picture of another: one with its image id, or in its file."""
    by_id = np.isin(table.image_ids, other.image_ids)  # [N]
    places, others = table.places, other.places
    by_place = pc.is_in(places, value_set=pa.chunked_array(others.chunks, others.type), skip_nulls=True)
    return int((by_id | by_place.to_numpy(zero_copy_only=False)).sum())
