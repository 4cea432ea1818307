"""Walk the search spaces of a window of samples."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.sampling.grit import grit_order
from truepair.sampling.hardness import Hardness
from truepair.sampling.known import KnownMatches
from truepair.sampling.ranks import Ranks

Indices = NDArray[np.int64]


def cut_spaces(positions: Indices, size: int) -> list[Indices]:
    """Cut positions [n] into search spaces of ``size``; the last may be smaller."""
    return [positions[first : first + size] for first in range(0, len(positions), size)]


def walk_spaces(
    spaces: Sequence[Indices],
    starts: Sequence[int],
    image: Tensor,
    text: Tensor,
    *,
    samples: Indices,
    group_size: int,
    hardness: Hardness,
    epoch: int,
    known: KnownMatches | None = None,
    ranks: Ranks | None = None,
) -> list[Indices]:
    """Bring each search space of a window into walking order.

    Args:
        spaces: Positions in the window, int64 [M] each.
        starts: Where each walk starts: a place within its search space.
        image: Normalised image features of the window [n, D].
        text: Normalised text features of the window [n, D].
        samples: What ``known`` calls the samples of the window, int64 [n].
        group_size: Length of the slices of a walk that become groups.
        hardness: The dial.
        epoch: Epoch that is planned.
        known: Matches to keep out of a group.
        ranks: Ranks that hold the same window and share the work: each space is walked by one of them.

    Returns:
        The positions of each space in walking order, int64 [M] each; the same on every rank.
    """
    ranks = ranks or Ranks()
    own = range(ranks.rank, len(spaces), ranks.count)
    walks: dict[int, Indices] = {}
    for size in sorted({len(spaces[number]) for number in own}):
        members = [number for number in own if len(spaces[number]) == size]
        positions = np.stack([spaces[number] for number in members])  # [S, M]
        where = torch.from_numpy(positions).to(image.device)
        images, texts = image[where], text[where]  # [S, M, D] each
        order = grit_order(
            images,
            texts,
            start=torch.tensor([starts[number] for number in members]),
            quantile=hardness(images, texts, epoch),
            forbidden=None if known is None else _forbidden(known, samples[positions]).to(image.device),
            batch_size=group_size,
        )
        walked = torch.from_numpy(positions).gather(1, order.cpu()).numpy()
        walks |= zip(members, walked, strict=True)
    if ranks.count == 1 or not spaces:
        return [walks[number] for number in range(len(spaces))]
    return _exchange([walks[number] for number in own], [len(space) for space in spaces], ranks)


def _forbidden(known: KnownMatches, samples: Indices) -> Tensor:
    """The matches within each search space, bool [S, M, M], of samples [S, M]."""
    return torch.from_numpy(np.stack([known.matrix(row) for row in samples]))


def _exchange(own: list[Indices], lengths: list[int], ranks: Ranks) -> list[Indices]:
    """All walks, of which each rank has made its own: the first, and every ``ranks.count``-th after its number."""
    joined = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *own]))
    numbers = [number for rank in range(ranks.count) for number in range(rank, len(lengths), ranks.count)]
    sizes = [sum(lengths[rank :: ranks.count]) for rank in range(ranks.count)]
    ends = np.cumsum([lengths[number] for number in numbers])
    (gathered,) = ranks.gather(sizes, joined)
    walks = np.split(gathered.numpy(), ends[:-1])
    return [walk for _, walk in sorted(zip(numbers, walks, strict=True), key=lambda pair: pair[0])]
