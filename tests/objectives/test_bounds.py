import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from truepair.objectives import bounds
from truepair.objectives.bounds import information_bounds
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.srcl import Regulation, RegulationConfig, normalised_weights
from truepair.relations.pairs import PairSet


def features(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_terms_equal_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_CHUNK", 4)
    images, texts = features(9, 0), features(9, 1)
    regulation = Regulation(RegulationConfig("softmax", delta=2.0))
    others = ~torch.eye(9, dtype=torch.bool)
    similarity = images @ texts.T
    weights = normalised_weights(regulation.log_weights(slice(None), slice(None), similarity), others)
    f = (similarity / 0.2).exp().tolist()
    w = weights.tolist()
    terms = []
    for i in range(9):
        mean_f = sum(f[i]) / 9
        negatives = [j for j in range(9) if j != i]
        ratio = [value / mean_f for value in f[i]]
        weighted = f[i][i] + sum(w[i][j] * f[i][j] for j in negatives)
        terms.append(
            [
                math.log(ratio[i]),
                sum(math.log(ratio[j]) for j in negatives) / 8,
                math.log(sum(ratio[j] for j in negatives) / 8),
                sum(math.log(w[i][j] * ratio[j]) for j in negatives) / 8,
                math.log(9) + math.log(f[i][i] / weighted),
            ]
        )
    wanted = torch.tensor(terms).mean(dim=0).tolist()
    found = information_bounds(images, texts, 0.2, regulation=regulation)
    got = [found.positive, found.negative, found.log_mean_ratio, found.regulated, found.bound]
    assert got == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_right_hand_sides_are_log_n_minus_the_losses() -> None:
    images, texts = features(40, 2), features(40, 3)
    regulation = Regulation(RegulationConfig("tempered"))
    plain = contrastive_loss(images, texts, 0.1).rows.mean()
    regulated = contrastive_loss(images, texts, 0.1, regulation=regulation).rows.mean()
    found = information_bounds(images, texts, 0.1, regulation=regulation)
    assert found.positive == pytest.approx(math.log(40) - float(plain), abs=1e-5)
    assert found.bound == pytest.approx(math.log(40) - float(regulated), abs=1e-5)
    without = information_bounds(images, texts, 0.1)
    assert without.bound == without.positive and without.regulated == without.negative


def test_bounds_hold_where_positives_stand_out() -> None:
    """Equations 3, 22 and 36 need the positive's ratio to be at least that of the mean negative."""
    images = features(60, 4)
    texts = F.normalize(images + 0.3 * features(60, 5), dim=1)
    found = information_bounds(images, texts, 0.1, regulation=Regulation(RegulationConfig("softmax")))
    assert found.positive - found.log_mean_ratio >= found.positive  # log N - L is found.positive
    assert found.gap >= found.positive - found.log_mean_ratio
    assert found.positive - found.regulated >= found.bound


def test_estimates_the_true_information_of_gaussians() -> None:
    """Correlated normal pairs: the mutual information is known, and these features score the density ratio exactly."""
    rho, size = 0.8, 4000
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(size, generator=generator)
    rest = 1 - rho**2
    # log ratio = (rho x y - rho^2 (x^2 + y^2) / 2) / (1 - rho^2) + constant, as an inner product
    queries = torch.stack([rho * x / rest, -(rho**2) * x**2 / (2 * rest), torch.ones(size)], dim=1)
    keys = torch.stack([y, torch.ones(size), -(rho**2) * y**2 / (2 * rest)], dim=1)
    truth = -0.5 * math.log(rest)
    assert information_bounds(queries, keys, 1.0).positive == pytest.approx(truth, abs=0.05)


def test_suspects_are_reported_by_themselves() -> None:
    images = features(30, 6)
    texts = images.clone()
    texts[7] = texts[3]  # text 7 is true of image 3
    found = information_bounds(
        images, texts, 0.1, suspects=PairSet(torch.tensor([3]), torch.tensor([7]), torch.ones(1), (30, 30))
    )
    assert found.suspects > 1 > found.negative
    assert math.isnan(information_bounds(images, texts, 0.1).suspects)


@pytest.mark.parametrize("form", [None, "softmax", "tempered"])
def test_some_anchors_are_what_they_are_among_all(form: str | None) -> None:
    """Each anchor's terms, asked alone; a mean over some of them is that of theirs."""
    images, texts = features(11, 8), features(11, 9)
    regulation = None if form is None else Regulation(RegulationConfig(form, delta=2.0))  # type: ignore[arg-type]
    rows, columns = torch.tensor([1, 4, 4, 7, 8, 10]), torch.tensor([2, 3, 9, 0, 1, 5])
    suspects = PairSet(rows, columns, torch.ones(6), (11, 11))
    asked = partial(information_bounds, images, texts, 0.2, regulation=regulation, suspects=suspects)
    alone = [asked(anchors=slice(row, row + 1)) for row in range(11)]
    some = asked(anchors=slice(1, None, 3))  # 1, 4, 7, 10
    for name in ("positive", "negative", "log_mean_ratio", "regulated", "bound"):
        wanted = sum(getattr(alone[row], name) for row in (1, 4, 7, 10)) / 4
        assert getattr(some, name) == pytest.approx(wanted, abs=1e-5)
    assert math.isnan(alone[0].suspects)
    cells = alone[1].suspects + 2 * alone[4].suspects + alone[7].suspects + alone[10].suspects
    assert some.suspects == pytest.approx(cells / 5, abs=1e-5)
    assert asked().positive == pytest.approx(sum(one.positive for one in alone) / 11, abs=1e-5)


def test_too_small_batches_say_so() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        information_bounds(features(1, 0), features(1, 1), 0.1)
