"""Soft targets of the contrastive loss: ALBEF's momentum distillation and GRIT-VLP's consistency."""

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.objectives.contrastive import ContrastiveOutput, contrastive_loss
from truepair.objectives.direction import Direction
from truepair.relations.pairs import PairSet


@torch.no_grad()
def momentum_targets(
    queries: Tensor, keys: Tensor, temperature: Tensor | float, positives: PairSet, alpha: float
) -> Tensor:
    """Target rows of momentum distillation (ALBEF, section 3.3): (1 - alpha) * positives + alpha * momentum model.

    Args:
        queries: Momentum features of the anchors [A, D].
        keys: Momentum features of the candidates, the queue included [C, D].
        temperature: Positive scalar.
        positives: Positives of the anchors [A, C]; each anchor needs one.
        alpha: Weight of the momentum model's distribution.

    Returns:
        Rows that sum to 1, for ``Direction.soft`` [A, C].
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    teacher = F.softmax(queries.to(dtype) @ keys.to(dtype).T / temperature, dim=1)
    return teacher.mul_(alpha).add_(positives.normalised().dense().to(dtype), alpha=1.0 - alpha)


def consistency_loss(queries: Tensor, keys: Tensor, temperature: Tensor | float) -> ContrastiveOutput:
    """Consistency loss of GRIT-VLP: each direction's target is the other direction's distribution, without gradient.

    Row b of image-to-text (image b over the texts) is drawn to row b of text-to-image (text b over the images).
    GRIT-VLP adds 0.2 of it to the contrastive loss; keys have no gradient in both.

    Args:
        queries: Features, L2-normalised [B, D].
        keys: Features of the partners [B, D].
        temperature: Positive scalar.

    Returns:
        The mean of both directions, and its parts.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        logits = queries.to(dtype) @ keys.to(dtype).T / temperature  # [B, B]
        rows, columns = F.softmax(logits, dim=1), F.softmax(logits.T, dim=1)
    return contrastive_loss(
        queries,
        keys,
        temperature,
        rows=Direction(soft=columns),
        columns=Direction(soft=rows),
        key_gradient=False,
    )
