"""A judge of signals, fitted on judged pairs."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.judges.calibration import fit_logistic

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SignalJudge:
    """Logistic regression on signals; its probabilities are as sure as the judged pairs it was fitted on.

    Attributes:
        centre: mean of each signal, which stands for one that says nothing [S].
        spread: standard deviation of each signal [S].
        weights: a weight per signal, and the constant [S + 1].
    """

    centre: Tensor
    spread: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, signals: Floats, labels: Tensor, *, l2: float = 0.03) -> Self:
        """Fit on judged pairs.

        Args:
            signals: of P pairs [P, S]; NaN where a signal says nothing.
            labels: which of them match, bool [P].
            l2: penalty, see `fit_logistic`.

        Raises:
            DataError: all labels are the same.
        """
        inputs = torch.from_numpy(signals).double()
        centre = inputs.nanmean(dim=0).nan_to_num()
        inputs = torch.where(inputs.isnan(), centre, inputs)
        spread = inputs.std(dim=0).clamp(min=1e-6)
        return cls(centre, spread, fit_logistic((inputs - centre) / spread, labels, l2=l2))

    def probabilities(self, signals: Floats) -> Tensor:
        """Match probabilities of pairs, from their signals [P, S], float64 [P]."""
        inputs = ((torch.from_numpy(signals).double() - self.centre) / self.spread).nan_to_num()
        return (inputs @ self.weights[:-1] + self.weights[-1]).sigmoid()
