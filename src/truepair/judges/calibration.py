"""From evidence to probabilities: logistic regression, as all judges that are fitted use it."""

import torch
from torch import Tensor

from truepair.errors import DataError

_TOLERANCE = 1e-10  # of the gradient of the mean loss


def fit_logistic(inputs: Tensor, labels: Tensor, weights: Tensor | None = None, *, l2: float = 1e-3) -> Tensor:
    """Weights of the most likely logistic model.

    Args:
        inputs: float [P, F]; of a similar scale each, since the penalty is the same for all.
        labels: bool [P].
        weights: how many pairs each stands for [P]; 1 each when absent.
        l2: penalty on half the squared weights (the constant is free), relative to the total weight of the rarer label.

    Returns:
        float64 [F + 1]: a weight per input, and the constant.

    Raises:
        DataError: all labels are the same.
    """
    # Imported where it is used: it takes a second, which a run whose judge is already fitted need not wait for.
    from sklearn.linear_model import LogisticRegression

    if bool(labels.all()) or not bool(labels.any()):
        raise DataError("a calibration needs both matches and non-matches; give clean data that has both")
    weight = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    penalty = l2 * float(torch.minimum(weight[labels].sum(), weight[~labels].sum()))
    model = LogisticRegression(
        C=1 / penalty if penalty else float("inf"), solver="newton-cholesky", tol=_TOLERANCE, max_iter=100
    )
    model.fit(inputs.double().numpy(), labels.numpy(), sample_weight=weight.numpy())
    return torch.cat([torch.from_numpy(model.coef_[0]), torch.from_numpy(model.intercept_)])
