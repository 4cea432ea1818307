"""The bootstrap: what is drawn with replacement, and percentile intervals of the figures of the draws.

``scipy.stats.bootstrap`` draws single observations alone. Here pairs of one photo are drawn together, and the runs of a
study in two stages.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ENDS = (2.5, 97.5)
"""Percent points of the 95 % interval."""

Draws = NDArray[np.float64]


def percentile_interval(drawn: Draws, method: Literal["linear", "inverted_cdf"] = "linear") -> Draws:
    """Ends of the 95 % interval.

    Args:
        drawn: a figure, or several, of each draw [R, ...].
        method: "linear" interpolates between draws; "inverted_cdf" gives values that occurred, so that some may be
            infinite.

    Returns:
        Low and high [2, ...].
    """
    ends: Draws = np.percentile(drawn, ENDS, axis=0, method=method)
    return ends


def drawn_rows(count: int, resamples: int, seed: int, *, at_once: int) -> Iterator[NDArray[np.int64]]:
    """Draw as many rows as there are, again and again.

    Args:
        count: Q, how many rows there are.
        resamples: R, how many draws of Q rows.
        seed: of the draws.
        at_once: rows of a block, at most (but whole draws); what is drawn does not depend on it.

    Yields:
        Row numbers in blocks [r, Q]; the r add up to R.
    """
    generator = np.random.default_rng(seed)
    block = max(1, at_once // count)
    for start in range(0, resamples, block):
        yield generator.integers(count, size=(min(block, resamples - start), count))


def drawn_groups(groups: Tensor, resamples: int, seed: int, *, at_once: int = 32) -> Iterator[Tensor]:
    """Draw groups of rows, such as the pairs of a photo, that stay together.

    The draws are torch's, with which the published intervals of detectors were made.

    Args:
        groups: what each row is drawn with, int64 [P].
        resamples: R, how many draws of as many groups as there are.
        seed: of the draws.
        at_once: draws of a block.

    Yields:
        How often each row is drawn, float64, in blocks [r, P]; the r add up to R.
    """
    names, group = groups.unique(return_inverse=True)  # [G], [P]
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = torch.randint(len(names), (rows, len(names)), generator=generator)
        counts = torch.zeros(rows, len(names), dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        yield counts[:, group]


def two_stage_weights(clusters: Sequence[int], resamples: int, seed: int) -> Draws:
    """Draw clusters, and within each draw of a cluster its members (Davison and Hinkley 1997, section 3.8).

    Args:
        clusters: the cluster of each row [C].
        resamples: R.
        seed: of the draws.

    Returns:
        How much each row weighs in each draw [R, C]; rows sum to 1.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(np.array(clusters) == cluster) for cluster in dict.fromkeys(clusters)]
    drawn = generator.integers(len(members), size=(resamples, len(members)))
    weights = np.zeros((resamples, len(clusters)))
    for draw in drawn.T:  # each draw of a cluster draws its members anew
        for number, rows in enumerate(members):
            here = np.flatnonzero(draw == number)
            picked = rows[generator.integers(len(rows), size=(len(here), len(rows)))]
            np.add.at(weights, (here[:, None], picked), 1.0)
    shares: Draws = weights / weights.sum(axis=1, keepdims=True)
    return shares
