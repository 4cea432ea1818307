"""How hard and how false the negatives of batches are."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def hardest_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Similarity of each sample's hardest negative in its batch.

    Args:
        image: Normalised image features [B, D].
        text: Normalised text features [B, D].

    Returns:
        The mean over both directions (image to other texts, text to other images) of the largest cosine, [B]; -inf
        in a batch of one.
    """
    similarity = (image @ text.T).fill_diagonal_(-torch.inf)  # [B, B]
    return (similarity.amax(dim=1) + similarity.amax(dim=0)) / 2


def shared_label_rate(batches: Iterable[NDArray[np.int64]], labels: NDArray[np.int64]) -> float:
    """Share of the pairs of samples within batches that have the same label: the rate of false negatives.

    Args:
        batches: Dataset indices of each batch.
        labels: What each sample shows, int64 [N]; a negative label is like no other.

    Returns:
        A share from 0 to 1; 0 when there are no pairs.
    """
    shared = pairs = 0
    for batch in batches:
        pairs += len(batch) * (len(batch) - 1) // 2
        _, counts = np.unique(labels[batch][labels[batch] >= 0], return_counts=True)
        shared += int((counts * (counts - 1) // 2).sum())
    return shared / pairs if pairs else 0.0
