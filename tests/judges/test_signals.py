import numpy as np
import pytest
import torch

from truepair.judges.signals import SignalJudge


def test_a_judge_gives_the_share_of_matches() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, generator=generator)
    labels = torch.rand(4000, generator=generator) < (2 * hidden - 2).sigmoid()
    signals = torch.cat([hidden[:, None] * 50 + 7, torch.randn(4000, 2, generator=generator)], dim=1).numpy()
    judge = SignalJudge.fit(signals, labels, l2=1e-4)
    found = judge.probabilities(signals)
    assert float((found - (2 * hidden - 2).sigmoid()).abs().mean()) < 0.02
    assert float(found.mean()) == pytest.approx(float(labels.double().mean()), abs=1e-4)
    constant = SignalJudge.fit(np.ones((4000, 1), np.float32), labels).probabilities(np.ones((2, 1), np.float32))
    assert constant.tolist() == pytest.approx([float(labels.double().mean())] * 2, abs=1e-4)


def test_a_signal_that_says_nothing_counts_as_average() -> None:
    signals = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 3.0], [6.0, np.nan]], np.float32)
    labels = torch.tensor([False, False, True, True])
    judge = SignalJudge.fit(signals, labels)
    filled = np.where(np.isnan(signals), 2.0, signals).astype(np.float32)
    assert judge.probabilities(signals).tolist() == pytest.approx(judge.probabilities(filled).tolist())
