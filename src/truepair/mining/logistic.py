"""Logistic regression on a few inputs and very many pairs."""

import torch
from torch import Tensor

from truepair.errors import DataError

_STEPS = 50
_TOLERANCE = 1e-8
_LONGEST = 2.0  # a Newton step of the standardised weights beyond this would overshoot


def fit_logistic(inputs: Tensor, labels: Tensor, weights: Tensor | None = None, *, l2: float = 1e-3) -> Tensor:
    """Weights of the most likely logistic model, by iteratively reweighted least squares.

    Args:
        inputs: float [P, F]; of a similar scale each, since the penalty is the same for all.
        labels: bool [P].
        weights: how many pairs each stands for [P]; 1 each when absent.
        l2: penalty on the squared weights (the constant is free), relative to the total weight of the rarer label.

    Returns:
        float64 [F + 1]: a weight per input, and the constant.

    Raises:
        DataError: all labels are the same.
    """
    if bool(labels.all()) or not bool(labels.any()):
        raise DataError("a calibration needs both matches and non-matches; give clean data that has both")
    target = labels.double()
    weight = torch.ones_like(target) if weights is None else weights.double()
    design = torch.cat([inputs.double(), torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)  # [P, F + 1]
    rarer = torch.minimum((weight * target).sum(), (weight * (1 - target)).sum())
    penalty = torch.full((design.shape[1],), l2, dtype=torch.float64) * rarer
    penalty[-1] = 0.0
    found = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(_STEPS):
        probability = (design @ found).sigmoid()  # [P]
        gradient = design.T @ (weight * (probability - target)) + penalty * found
        curvature = (design * (weight * probability * (1 - probability))[:, None]).T @ design + penalty.diag()
        curvature += 1e-9 * rarer * torch.eye(len(found), dtype=torch.float64)  # an input that tells nothing
        step = torch.linalg.solve(curvature, gradient)
        longest = step.abs().max()
        found = found - step * torch.clamp(_LONGEST / longest, max=1.0)
        if longest < _TOLERANCE:
            break
    return found
