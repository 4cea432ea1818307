"""Which candidates a person is asked about next: what teaches the judge most.

The first questions are drawn by rank: the judge must meet matches, which are rare. Then come rounds, of which three
quarters are what the judge is least sure of and one quarter is drawn by rank again, which finds matches that it has no
idea of. On human judgements of photographs, two hundred answers asked like this are worth nearly all 27,000.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.randomness import keyed_uniform, sample_keys, stable_hash

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

BY_RANK_FIRST = 30
"""So many pairs are asked by rank before the judge's doubts count."""

ROUND = 12
"""Pairs of a round; one in four is drawn by rank."""

_RANK = 20  # added to the rank, so that the first place is not asked for sure
_BY_RANK = 4


def next_round(log_odds: Floats, free: Flags, answered: int, seed: int, *, size: int = ROUND) -> list[tuple[int, str]]:
    """The pairs to be asked next, and why.

    Args:
        log_odds: what the judge says of each candidate [P].
        free: which may be asked [P].
        answered: how many answers the judge has had; with the seed, it decides the draws.
        seed: of the review.
        size: how many; fewer where fewer are free.

    Returns:
        Numbers of candidates, each with "rank" or "uncertain".
    """
    by_rank = size if answered < BY_RANK_FIRST else size // _BY_RANK
    drawn = by_rank_draw(log_odds, free, by_rank, stable_hash(seed, "rank", answered))
    left = free.copy()
    left[drawn] = False
    doubtful = uncertain(log_odds, left, size - by_rank)
    asked = [(number, "uncertain") for number in doubtful.tolist()]
    for place, number in enumerate(drawn.tolist()):  # one after three others, so that a round broken off has its share
        asked.insert(place * _BY_RANK + _BY_RANK - 1, (number, "rank"))
    return asked


def by_rank_draw(log_odds: Floats, free: Flags, count: int, key: int) -> Integers:
    """Free pairs drawn without replacement, each with a chance in proportion to 1 / (rank + 20).

    Ranks are among the free pairs. Of exponential waiting times at those rates, the shortest are taken (Efraimidis and
    Spirakis, 2006).

    Args:
        log_odds: [P].
        free: [P].
        count: how many; fewer where fewer are free.
        key: equal keys, equal draws.

    Returns:
        Numbers of candidates, int64 [<= count], in the order in which they were drawn.
    """
    numbers = np.flatnonzero(free)
    order = numbers[np.argsort(-log_odds[numbers], kind="stable")]
    uniform = keyed_uniform(sample_keys(key, torch.from_numpy(order)), 1)[:, 0].numpy().astype(np.float64)
    waiting = -np.log1p(-uniform) * (np.arange(len(order)) + _RANK)
    return order[_least(waiting, count)]


def uncertain(log_odds: Floats, free: Flags, count: int) -> Integers:
    """The free pairs whose probability is nearest to one half, the nearest first, int64 [<= count]."""
    numbers = np.flatnonzero(free)
    return numbers[_least(np.abs(log_odds[numbers]), count)]


def _least(values: NDArray[Any], count: int) -> Integers:
    """Places of the least values, the least first; of equal ones the first, int64 [<= count]."""
    count = min(count, len(values))
    if count == 0:
        return np.zeros(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= bound)
    return near[np.argsort(values[near], kind="stable")][:count].astype(np.int64)
