"""Losses under `torch.compile`: one graph, whatever relations say; of a batch in tiles, one break by intent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from truepair.objectives import contrastive_loss, sigmoid_loss
from truepair.objectives.contrastive import Direction
from truepair.objectives.srcl import Regulation, RegulationConfig
from truepair.relations.pairs import PairSet

SIZE = 6
TEMPERATURE, BIAS = torch.tensor(0.1), torch.tensor(-2.0)


def features(seed: int, size: int = SIZE) -> Tensor:
    drawn = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1).requires_grad_()


def cells(rows: list[int], columns: list[int], values: list[float]) -> PairSet:
    return PairSet(torch.tensor(rows), torch.tensor(columns), torch.tensor(values), (SIZE, SIZE))


OWN = PairSet.diagonal(SIZE, SIZE)
MATCHES = PairSet.union(OWN, cells([0, 2], [3, 1], [1.0, 0.5]))
# One cell is masked, one reweighted, and one is a match, which counts more; the next batch has other ones.
WEIGHTS = cells([1, 4, 0], [2, 5, 3], [0.0, 0.3, 0.0])
OTHERS = cells([2, 3, 5], [1, 0, 5], [0.0, 0.0, 0.7])

DIRECTIONS: dict[str, tuple[Direction, Direction]] = {
    "plain": (Direction(), Direction()),
    "relabelled": (Direction(MATCHES), Direction(OWN)),
    "masked": (Direction(MATCHES, weights=WEIGHTS), Direction(MATCHES, weights=OTHERS)),
    "smoothed": (Direction(MATCHES, 0.3, weights=WEIGHTS), Direction(MATCHES, 0.3, weights=OTHERS)),
    "soft": (Direction(soft=torch.eye(SIZE) * 0.9 + 0.1 / SIZE, weights=WEIGHTS), Direction(MATCHES, weights=OTHERS)),
}
REGULATION = Regulation(RegulationConfig("softmax", 3.0, 0.3), 0.5, features(5).detach(), features(6).detach())


def softmax(
    queries: Tensor, keys: Tensor, rows: Direction, columns: Direction, regulation: Regulation | None
) -> Tensor:
    return contrastive_loss(queries, keys, TEMPERATURE, rows=rows, columns=columns, regulation=regulation).loss


def sigmoid(
    queries: Tensor, keys: Tensor, rows: Direction, columns: Direction, regulation: Regulation | None
) -> Tensor:
    return sigmoid_loss(queries, keys, TEMPERATURE, BIAS, rows=rows, columns=columns, regulation=regulation)


@pytest.mark.parametrize("regulated", [False, True])
@pytest.mark.parametrize("relations", DIRECTIONS)
@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_a_loss_is_one_graph(loss: Callable[..., Tensor], relations: str, regulated: bool) -> None:
    rows, columns = DIRECTIONS[relations]
    regulation = REGULATION if regulated else None
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for seeds in ((1, 2), (3, 4)):
        queries, keys = (features(seed) for seed in seeds)
        wanted = loss(queries, keys, rows, columns, regulation)
        found = compiled(queries, keys, rows, columns, regulation)
        torch.testing.assert_close(found, wanted)
        gradients = zip(*(torch.autograd.grad(value, [queries, keys]) for value in (found, wanted)), strict=True)
        for one, other in gradients:
            torch.testing.assert_close(one, other)


def test_compiled_code_refuses_labels_beyond_one() -> None:
    torch.compiler.reset()
    compiled = torch.compile(sigmoid, fullgraph=True, backend="eager")
    wrong = Direction(OWN.with_values(torch.full((SIZE,), 1.5)))
    with pytest.raises(RuntimeError, match="give numbers from 0 to 1"):
        compiled(features(1), features(2), wrong, wrong, None)


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_a_batch_in_tiles_is_left_out_of_the_graph(loss: Callable[..., Any]) -> None:
    rest = () if loss is contrastive_loss else (BIAS,)

    def tiled(queries: Tensor, keys: Tensor) -> Tensor:
        result = loss(queries, keys, TEMPERATURE, *rest, rows=DIRECTIONS["masked"][0], implementation="tiled")
        total: Tensor = result if isinstance(result, Tensor) else result.loss
        return total

    torch.compiler.reset()
    queries, keys = features(1), features(2)
    found, wanted = torch.compile(tiled, backend="eager")(queries, keys), tiled(queries, keys)
    torch.testing.assert_close(found, wanted)
    for value, other in zip(*(torch.autograd.grad(one, [queries, keys]) for one in (found, wanted)), strict=True):
        torch.testing.assert_close(value, other)
    torch.compiler.reset()
    told = torch._dynamo.explain(tiled)(queries, keys)
    assert told.graph_break_count == 2  # before the tiles and at them, and none within
    assert all("torch.compiler.disable" in reason.reason for reason in told.break_reasons)
