"""Which pictures of a table can be read: found before anything is measured on them, so that all models see the same."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from truepair.data.images import BadImageError, load_image
from truepair.data.table import PairTable

_AT_ONCE = 256  # pictures whose bytes are held


def unreadable_pictures(
    table: PairTable, *, min_side: int | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[int, str]:
    """Decode each picture of a table once, in threads.

    Args:
        table: the rows; a picture that several show is decoded for the first.
        min_side: as of :func:`load_image`: a JPEG need not be decoded in full.
        progress: called with (pictures done, pictures in all).

    Returns:
        Every row whose picture cannot be read, in order, and why.
    """
    pictures = table.pictures  # [N]
    _, firsts = np.unique(pictures, return_index=True)
    stored = table.rows.select_columns(["image"])
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(firsts), _AT_ONCE):
            part = firsts[start : start + _AT_ONCE].tolist()
            found = pool.map(partial(_reason, min_side=min_side), stored[part]["image"])
            reasons |= {int(pictures[row]): why for row, why in zip(part, found, strict=True) if why}
            if progress is not None:
                progress(start + len(part), len(firsts))
    bad = np.flatnonzero(np.isin(pictures, list(reasons))) if reasons else ()
    return {int(row): reasons[int(pictures[row])] for row in bad}


def _reason(image: Mapping[str, Any], min_side: int | None) -> str:
    """Why a picture cannot be read; empty where it can."""
    try:
        load_image(image, min_side=min_side)
    except BadImageError as error:
        return str(error)
    return ""
