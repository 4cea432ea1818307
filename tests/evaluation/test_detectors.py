import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import DataError
from truepair.evaluation.detectors import average_precision_interval, brier_score, detector_metrics, reliability

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30).filter(
    lambda pairs: len({label for _, label, _ in pairs}) == 2
)


def tensors(pairs: list[tuple[int, bool, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores, labels, groups = zip(*pairs, strict=True)
    return torch.tensor(scores).double(), torch.tensor(labels), torch.tensor(groups)


def slow_precision(scores: list[float], labels: list[bool]) -> float:
    """Mean, over the matches, of the precision among all pairs of at least their score."""
    precisions = []
    for score, label in zip(scores, labels, strict=True):
        if label:
            above = [other for value, other in zip(scores, labels, strict=True) if value >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)


@settings(max_examples=60)
@given(pairs=PAIRS)
def test_figures_are_those_of_slow_loops(pairs: list[tuple[int, bool, int]]) -> None:
    scores, labels, _ = tensors(pairs)
    figures = detector_metrics(scores, labels)
    matches = [score for score, label, _ in pairs if label]
    others = [score for score, label, _ in pairs if not label]
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in matches for b in others)
    assert figures.auc == pytest.approx(wins / len(matches) / len(others))
    assert figures.average_precision == pytest.approx(slow_precision(scores.tolist(), labels.tolist()))
    for recall, value in figures.precision_at_recall.items():
        reached = []
        for threshold in set(scores.tolist()):
            above = labels[scores >= threshold].tolist()
            if sum(above) >= recall * len(matches) - 1e-9:
                reached.append(sum(above) / len(above))
        assert value == pytest.approx(max(reached))


@settings(max_examples=30)
@given(pairs=PAIRS)
def test_only_the_order_of_scores_counts(pairs: list[tuple[int, bool, int]]) -> None:
    scores, labels, _ = tensors(pairs)
    assert detector_metrics(scores, labels) == detector_metrics((scores / 3).exp(), labels)


def test_an_interval_is_that_of_pairs_drawn_again_with_their_groups() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(200, generator=generator) < 0.3
    scores = (torch.randn(200, generator=generator) + labels).round(decimals=1)
    groups = torch.randint(20, (200,), generator=generator)
    found = average_precision_interval(scores, labels, groups, resamples=40, seed=5)
    draws = torch.Generator().manual_seed(5)
    values = []
    for rows in (32, 8):  # as many as are drawn at once
        for drawn in torch.randint(20, (rows, 20), generator=draws):
            pairs = torch.cat([(groups == group).nonzero()[:, 0] for group in drawn.tolist()])
            values.append(slow_precision(scores[pairs].tolist(), labels[pairs].tolist()))
    expected = torch.tensor(values).double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert [found.low, found.high] == pytest.approx(expected)
    assert found.value == pytest.approx(slow_precision(scores.tolist(), labels.tolist()))
    assert found.low < found.value < found.high


def test_reliability_compares_predicted_and_true_shares() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0])
    labels = torch.tensor([False, True, False, True, True])
    low, high = reliability(probabilities, labels, (0.0, 0.5, 1.0))
    assert (low.pairs, low.predicted, low.true) == (2, pytest.approx(0.05), 0.5)
    assert (high.pairs, high.predicted, high.true) == (3, pytest.approx(2.2 / 3), pytest.approx(2 / 3))
    assert len(reliability(probabilities, labels, (0.0, 0.2, 0.3, 1.0))) == 2  # nothing between 0.2 and 0.3
    assert brier_score(probabilities, labels) == pytest.approx((0.81 + 0.25 + 0.09) / 5)


def test_pairs_that_are_all_alike_measure_nothing() -> None:
    with pytest.raises(DataError, match="all alike"):
        detector_metrics(torch.rand(3), torch.ones(3, dtype=torch.bool))
