"""Text assignment: which of two images a caption belongs to, the first, the second, or neither (ALBEF, section 3.5)."""

from typing import NamedTuple

import torch
from torch import Tensor

NEITHER = 2
"""The label of a caption that belongs to neither image."""


class Assignment(NamedTuple):
    """R captions, each with two images of the batch."""

    texts: Tensor
    """The caption of each row, int64 [R]."""
    images: Tensor
    """The two images of each row, int64 [R, 2]."""
    labels: Tensor
    """0 where the caption belongs to the first image, 1 to the second, 2 to neither; int64 [R]."""


def draw_assignment(negatives: Tensor, generator: torch.Generator) -> Assignment:
    """Give each caption of a batch two different images; the three labels are equally likely.

    A caption with only one negative image is never given to neither; one without any is left out.

    Args:
        negatives: True where image j is a negative of caption i, bool [B, B]; known matches must be False.
        generator: on the device of ``negatives``.
    """
    count, device = len(negatives), negatives.device
    draws = torch.rand(count, count, generator=generator, device=device).masked_fill(~negatives, -1.0)
    drawn = draws.sort(dim=1, descending=True).indices  # negatives first, in random order
    available = negatives.sum(dim=1)  # [B]
    other, another = drawn[:, 0], drawn[:, min(1, count - 1)]
    choices = (available + 1).clamp(max=3)  # [B]
    labels = (torch.rand(count, generator=generator, device=device) * choices).long()  # [B]
    own = torch.arange(count, device=device)
    first = torch.where(labels == 0, own, other)
    second = torch.where(labels == 0, other, torch.where(labels == 1, own, another))
    texts = (available > 0).nonzero()[:, 0]  # [R]
    return Assignment(texts, torch.stack([first, second], dim=1)[texts], labels[texts])
