"""Many lists in one array, one after the other: where each starts, and the places of some of them."""

import numpy as np


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Where each of N lists of some lengths [N] starts in one array of all, and where the last ends, int64 [N + 1]."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def ranges(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of N ranges, one range after the other, and which range each belongs to.

    Args:
        first: the first number of each range [N].
        counts: how many numbers each has [N].

    Returns:
        The number of the range of each, and the numbers themselves, int64 [sum of counts] each.
    """
    starts = starts_of(counts)
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(starts[-1]) + (first - starts[:-1])[owners]
