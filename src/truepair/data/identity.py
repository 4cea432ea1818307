"""What the rows of a table say about which pairs match each other: for the sampler and for the log."""

import numpy as np
from numpy.typing import NDArray

from truepair.data.table import PairTable
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
    texts = [
        -1 if captions == "draw" and len(of_row) > 1 else caption_key(of_row[0]) for of_row in table.values("captions")
    ]
    return np.stack([images, np.asarray(texts, np.int64)], axis=1)


def concept_labels(table: PairTable) -> NDArray[np.int64] | None:
    """What each row shows, from the ``group`` column, int64 [N] with -1 where it is not known; None without it."""
    if "group" not in table.rows.column_names:
        return None
    numbers: dict[str, int] = {}
    labels = [-1 if group is None else numbers.setdefault(group, len(numbers)) for group in table.values("group")]
    return np.asarray(labels, np.int64)
