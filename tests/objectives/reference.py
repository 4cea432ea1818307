"""The formulas written out as loops, slow and obvious: what the fast code is compared with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

WEIGHT_FORMS: dict[str, Callable[[float, float, float], float]] = {
    # form -> unnormalised weight of (mixed similarity, delta, tau_w)
    "literal": lambda s, delta, tau_w: 1 / s,
    "tempered": lambda s, delta, tau_w: 1 / s,
    "softmax": lambda s, delta, tau_w: math.exp(delta / s),
}


def srcl_weights(
    seed: Tensor | None, current: Tensor, negatives: Tensor, alpha: float, form: str, delta: float, tau_w: float
) -> Tensor:
    """Equations 6-9 for anchors in rows: weights of the negatives (bool [A, C]) of mean 1 per row, 0 elsewhere."""
    tau = tau_w if form == "tempered" else 1.0
    weights = torch.zeros_like(current)
    for i in range(current.shape[0]):
        row = {}
        for j in range(current.shape[1]):
            if negatives[i, j]:
                mixed = (1 - alpha) * math.exp(float(current[i, j]) / tau)
                if alpha > 0:
                    mixed += alpha * math.exp(float(seed[i, j]) / tau)
                row[j] = WEIGHT_FORMS[form](mixed, delta, tau_w)
        for j, weight in row.items():
            weights[i, j] = weight * len(row) / sum(row.values())
    return weights


def direction_loss(logits: Tensor, positives: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Loss of every anchor: - sum_j y_ij (s_ij - log sum_k w_ik exp(s_ik)); positives are shares; all [A, C]."""
    losses = []
    for i in range(logits.shape[0]):
        if positives[i].sum() == 0:
            losses.append(logits.new_zeros(()))
            continue
        taking_part = [k for k in range(logits.shape[1]) if weights[i, k] > 0]
        denominator = torch.logsumexp(torch.stack([logits[i, k] + weights[i, k].log() for k in taking_part]), 0)
        loss = logits.new_zeros(())
        for j in taking_part:
            target = (1 - smoothing) * positives[i, j] / positives[i].sum() + smoothing / len(taking_part)
            loss = loss - target * (logits[i, j] - denominator)
        losses.append(loss)
    return torch.stack(losses)
