"""Pairs that match for certain, because they share an id or a text."""

from torch import Tensor


def same_pair(image_ids: Tensor, caption_keys: Tensor) -> Tensor:
    """Which (image i, text j) of a batch of pairs are one image or one text, so that calling them negatives is wrong.

    Args:
        image_ids: Image id of each pair of the batch, int64 [B].
        caption_keys: Key of the normalised caption text of each pair (``caption_key``), int64 [B].

    Returns:
        bool [B, B], symmetric, True on the diagonal.
    """
    return (image_ids[:, None] == image_ids[None, :]) | (caption_keys[:, None] == caption_keys[None, :])
