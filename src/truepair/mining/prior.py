"""The judge before anyone has answered: fixed coefficients on signals, each taken in standard deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from truepair.models.encoders.fingerprint import combined_key

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prior:
    """Log-odds of a match as a weighted mean of standardised signals.

    Attributes:
        provenance: what the coefficients are from.
        coefficients: of each signal, "family/column"; a signal that a gallery lacks is left out.
        slope: log-odds for a weighted mean that is higher by 1.
        constant: log-odds of an average candidate.
    """

    provenance: str
    coefficients: Mapping[str, float]
    slope: float
    constant: float

    @property
    def fingerprint(self) -> str:
        """Of all of it."""
        return combined_key(coefficients=dict(self.coefficients), slope=self.slope, constant=self.constant)

    def log_odds(self, signals: Floats, names: Sequence[str]) -> Floats:
        """Log-odds of cells.

        Args:
            signals: of P candidates [P, S], among which each signal is standardised; NaN counts as average.
            names: of the signals.

        Returns:
            float32 [P]; for ranking, no more: how many candidates match is not known before anyone has answered.
        """
        used = [number for number, name in enumerate(names) if name in self.coefficients]
        total = np.zeros(len(signals), np.float64)
        weight = 0.0
        for number in used:
            column = signals[:, number].astype(np.float64)
            there = np.isfinite(column)
            spread = float(column[there].std()) if there.any() else 0.0
            if spread < 1e-6:
                continue
            share = self.coefficients[names[number]]
            total += share * np.where(there, (column - column[there].mean()) / spread, 0.0)
            weight += abs(share)
        return (self.constant + self.slope * total / max(weight, 1e-9)).astype(np.float32)


PRIOR = Prior(
    provenance=(
        "captions, learned_captions, alignment, hubness: logistic regression on 593 photos of COCO with what ECCV "
        "Caption and CxC found beside the declared captions, so strongly penalised that the direction is that of the "
        "two means, rounded; pictures, across, nearby: the weight of one of these signals, by hand; agreement: half of "
        "it, by hand; learned_pictures: half the weight of all others, by hand, for it is there only where most pictures "
        "share texts, which it was fitted on (seen to help on the bundled drawings); kinds: none, for they did not "
        "transfer"
    ),
    coefficients={
        "captions/best": 1.1,
        "captions/mean": 1.1,
        "captions/sets best": 1.2,
        "captions/sets mean": 1.2,
        "captions/best margin": 0.8,
        "captions/mean margin": 0.8,
        "learned_captions/best": 1.2,
        "learned_captions/mean": 1.2,
        "learned_captions/best margin": 1.0,
        "learned_captions/mean margin": 0.9,
        "alignment/5 of 5 mean": 1.05,
        "alignment/5 of 5 rarity": 1.05,
        "alignment/5 of 5 one caption": 1.0,
        "alignment/3 of 5 mean": 0.7,
        "alignment/1 of 5 mean": 0.6,
        "hubness/best pictures": 1.05,
        "hubness/best captions": 1.0,
        "hubness/mean pictures": 1.05,
        "hubness/mean captions": 1.0,
        "pictures/relative": 1.0,
        "learned_pictures/relative": 11.0,
        "across/picture to caption": 1.0,
        "across/caption to picture": 1.0,
        "nearby/caption": 1.0,
        "agreement/share": 0.5,
    },
    slope=1.3,  # log-odds of about one standard deviation among candidates: a surer prior is hard to correct by answers
    constant=-4.0,
)
"""The shipped prior. Its data are not shipped, and none of it was fitted on what this project measures it by."""
