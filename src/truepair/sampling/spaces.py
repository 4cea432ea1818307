"""Search spaces: what is cut from a window, and shared out to the ranks that bring it in an order."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from truepair.sampling.plan import Indices
from truepair.sampling.ranks import Ranks


def cut_spaces(positions: Indices, size: int) -> list[Indices]:
    """Cut positions [n] into search spaces of ``size``; the last may be smaller."""
    return [positions[first : first + size] for first in range(0, len(positions), size)]


def share_spaces(
    spaces: Sequence[Indices], ranks: Ranks, order: Callable[[Sequence[int]], Mapping[int, Indices]]
) -> list[Indices]:
    """Bring each search space into an order, on one of the ranks.

    Args:
        spaces: Positions in the window, int64 [M] each; the same on all ranks.
        ranks: This process among all.
        order: Given the numbers of some spaces, returns the positions of each in their order.

    Returns:
        The positions of each space in their order, int64 [M] each; the same on every rank.
    """
    own = range(ranks.rank, len(spaces), ranks.count)
    ordered = order(own)
    if ranks.count == 1 or not spaces:
        return [ordered[number] for number in range(len(spaces))]
    return _exchange([ordered[number] for number in own], [len(space) for space in spaces], ranks)


def _exchange(own: list[Indices], lengths: list[int], ranks: Ranks) -> list[Indices]:
    """All walks, of which each rank has made its own: the first, and every ``ranks.count``-th after its number."""
    joined = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *own]))
    numbers = [number for rank in range(ranks.count) for number in range(rank, len(lengths), ranks.count)]
    sizes = [sum(lengths[rank :: ranks.count]) for rank in range(ranks.count)]
    ends = np.cumsum([lengths[number] for number in numbers])
    (gathered,) = ranks.gather(sizes, joined)
    walks = np.split(gathered.numpy(), ends[:-1])
    return [walk for _, walk in sorted(zip(numbers, walks, strict=True), key=lambda pair: pair[0])]
