"""On a GPU the contrastive losses are those of the CPU, and in tiles what they are in dense form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.device import DEVICE, repeatable
from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.sigmoid import sigmoid_loss
from truepair.objectives.srcl import Regulation, RegulationConfig
from truepair.objectives.tiled import TILE
from truepair.relations.pairs import PairSet

pytestmark = pytest.mark.gpu

PAIRS = TILE + 100  # four tiles, three of them ragged
FOUND = 300


def features(seed: int, count: int = PAIRS) -> Tensor:
    """L2-normalised [count, 12]."""
    return F.normalize(torch.randn(count, 12, generator=torch.Generator().manual_seed(seed)), dim=1)


def found(seed: int, values: float, count: int = PAIRS) -> PairSet:
    """Random cells, a few hundred."""
    rows, columns = torch.randint(count, (2, FOUND), generator=torch.Generator().manual_seed(seed))
    return PairSet(rows, columns, torch.full((FOUND,), values), (count, count)).distinct()


def case(name: str, device: torch.device, count: int = PAIRS) -> dict[str, Any]:
    """What a loss is told beside features and temperature."""
    own = PairSet.diagonal(count, count)
    match name:
        case "plain":
            return {}
        case "matches and masks":
            positives = PairSet.union(own, found(1, 0.5, count)).to(device)
            return {"rows": Direction(positives, 0.1, weights=found(2, 0.0, count).to(device))}
        case "keys at rest":
            return {"rows": Direction(smoothing=0.5), "key_gradient": False}
    seeds = [features(number, count).to(device) for number in (3, 4)]
    return {"rows": Direction(own.to(device)), "regulation": Regulation(RegulationConfig("softmax"), 0.4, *seeds)}


CASES = ["plain", "matches and masks", "keys at rest", "regulated"]


def softmax(queries: Tensor, keys: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    """The softmax loss, a scalar."""
    return contrastive_loss(queries, keys, temperature, **options).loss


def sigmoid(queries: Tensor, keys: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    """The sigmoid loss with a bias, a scalar."""
    return sigmoid_loss(queries, keys, temperature, -3.0, **options)


def run(
    loss: Callable[..., Tensor], name: str, device: torch.device, count: int = PAIRS, *, implementation: str
) -> list[Tensor]:
    """The loss, and its gradients by queries, keys and temperature, on the CPU."""
    inputs = [features(0, count), features(1, count), torch.tensor(0.1)]
    given = [part.to(device).requires_grad_() for part in inputs]
    with repeatable():
        value = loss(*given, implementation=implementation, **case(name, device, count))
        value.backward()
    return [part.detach().cpu() for part in (value, *(part.grad for part in given if part.grad is not None))]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_tiled_equals_dense(loss: Callable[..., Tensor], name: str) -> None:
    dense, tiled = (run(loss, name, DEVICE, implementation=form) for form in ("dense", "tiled"))
    for wanted, given in zip(dense, tiled, strict=True):
        assert (given - wanted).norm() <= 1e-4 * wanted.norm()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_a_gpu_equals_the_cpu(loss: Callable[..., Tensor], implementation: str, name: str) -> None:
    cpu, device = (
        run(loss, name, place, 300, implementation=implementation) for place in (torch.device("cpu"), DEVICE)
    )
    for wanted, given in zip(cpu, device, strict=True):
        assert (given - wanted).norm() <= 1e-4 * wanted.norm()
