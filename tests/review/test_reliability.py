"""Reliability of judges that were asked, on people's answers."""

from dataclasses import replace

import numpy as np

from tests.review.mined import candidates_of
from truepair.review.figures import Judged, signal_reliability


def test_judges_that_were_asked_are_calibrated_and_a_cosine_states_nothing_of_its_own() -> None:
    found, truth = candidates_of()
    odds = np.where(truth, 2.0, -2.0) + np.random.default_rng(0).normal(size=len(truth))
    odds[::3] = np.nan  # not asked
    signals = np.stack([found.signals[:, 0], odds * 5, odds / 20], axis=1).astype(np.float32)
    names = ("captions/best", "vlm/vlm x", "dual/dual y")
    candidates = replace(found, names=names, signals=signals)
    which = np.arange(0, len(found), 2)
    shares = truth[which].astype(np.float64)
    shares[1] = 0.5  # two people disagree
    drawn = signal_reliability(candidates, Judged(which, shares, found.pictures[which]))
    assert set(drawn) == {"vlm/vlm x", "vlm/vlm x, as it says", "dual/dual y"}
    asked = int((np.isfinite(odds[which]) & (shares != 0.5)).sum())
    for bins in drawn.values():
        assert sum(one["pairs"] for one in bins) == asked
        assert all(one["low"] <= one["observed"] <= one["high"] for one in bins)
    gap = {
        name: sum(abs(one["predicted"] - one["observed"]) * one["pairs"] for one in bins) / asked
        for name, bins in drawn.items()
    }
    assert gap["vlm/vlm x"] < 0.06 and gap["dual/dual y"] < 0.06
    few = which[:10]
    assert signal_reliability(candidates, Judged(few, shares[:10], found.pictures[few])) == {}
