"""How alike images and texts are, whether an image has one feature or one for each of its queries (BLIP-2)."""

import torch
from torch import Tensor

_CELLS = 1 << 24
"""Products of queries and texts that are held at once where nothing asks for gradients: 64 MiB of float32."""


def similarities(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of all features of one side with all of the other; of an image with queries, its best query's.

    Args:
        one: Features [A, E]; or, of images with a query axis, [A, Q, E].
        other: Features [C, E], or [C, Q, E]; at most one side has queries.

    Returns:
        [A, C], with gradient; that of a best query is its alone.

    Raises:
        ValueError: Both sides have queries.
    """
    if one.dim() == other.dim() == 2:
        return one @ other.T
    if one.dim() == 2:
        return similarities(other, one).T
    if other.dim() == 3:
        raise ValueError("both sides have a query axis; images with queries are compared with texts only")
    at_once = max(1, _CELLS // max(1, one.shape[1] * len(other)))
    parts = [(part @ other.T).max(dim=1).values for part in one.split(at_once)]  # [a, Q, C] -> [a, C] each
    return torch.cat(parts)


def paired_similarities(images: Tensor, texts: Tensor) -> Tensor:
    """Similarity of image p with text p [P]; images [P, E] or [P, Q, E], texts [P, E]."""
    if images.dim() == 2:
        return (images * texts).sum(dim=1)
    return (images * texts[:, None]).sum(dim=2).amax(dim=1)


def as_products(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Features whose inner products are the similarities: the same, or with a query axis similarities and unit vectors.

    So whatever computes with inner products of features [A, D] and [C, D], such as the contrastive losses, computes
    with similarities by the best query as well: they are those of the rows of their matrix [A, C] with the unit vectors
    [C, C], in float32 or wider.

    Args:
        one: Features [A, E] or [A, Q, E].
        other: Features [C, E] or [C, Q, E].
    """
    if one.dim() == other.dim() == 2:
        return one, other
    with torch.autocast(one.device.type, enabled=False):  # bfloat16 would make ties of the best queries
        matrix = similarities(*(part.to(torch.promote_types(part.dtype, torch.float32)) for part in (one, other)))
    return matrix, torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
