import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.reference import srcl_weights
from truepair.objectives import sigmoid
from truepair.objectives.contrastive import DENSE_LIMIT, Direction
from truepair.objectives.sigmoid import sigmoid_loss
from truepair.objectives.sigmoid_tiled import softplus, tiled_sum
from truepair.objectives.srcl import Regulation, RegulationConfig
from truepair.relations.actions import Mask, Relabel, Reweight, Smooth
from truepair.relations.batch import BatchRelations
from truepair.relations.pairs import PairSet

NAMES = ("queries", "keys", "temperature", "bias")


@pytest.fixture(autouse=True)
def _many_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tiles, so that small batches have many of them, with ragged ends."""
    small = functools.partial(tiled_sum, tile=16)
    monkeypatch.setattr(sigmoid, "_SUMS", {**sigmoid._SUMS, "tiled": small})
    yield


@dataclass(frozen=True)
class Case:
    """A random call of the loss."""

    queries: Tensor
    keys: Tensor
    temperature: float
    bias: float
    rows: Direction
    columns: Direction | None
    regulation: Regulation | None
    symmetric: bool
    key_gradient: bool
    trained: str = "all"  # which inputs have a gradient


def features(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def random_direction(anchors: int, candidates: int, smoothing: float, soft: bool, seed: int) -> Direction:
    """Positives of random labels, random weights, a third of them 0; labels of all cells on demand."""
    generator = torch.Generator().manual_seed(seed)

    def cells(rate: float) -> PairSet:
        chosen = torch.rand(anchors, candidates, generator=generator) < rate
        return PairSet.from_dense(
            torch.rand(anchors, candidates, generator=generator, dtype=torch.float64), where=chosen
        )

    positives = cells(min(1.0, 3 / candidates))
    if anchors <= candidates:
        positives = PairSet.union(PairSet.diagonal(anchors, candidates), positives)
    weights = cells(0.2)
    return Direction(
        positives.with_values(positives.values.double()),
        smoothing,
        torch.rand(anchors, candidates, generator=generator, dtype=torch.float64) if soft else None,
        weights.with_values((weights.values * 1.5 - 0.5).clamp(min=0.0)),
    )


@st.composite
def cases(draw: st.DrawFn, largest: int) -> Case:
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    size = draw(st.integers(1, largest))
    symmetric = draw(st.booleans())
    others = size if symmetric else size + draw(st.integers(0, largest))
    seeds = [features(count, 6, generator) for count in (size, others)]
    form = draw(st.sampled_from([None, None, "literal", "softmax", "tempered"]))
    regulation = form and Regulation(RegulationConfig(form, 3.0, 0.3), draw(st.sampled_from([0.0, 0.4, 1.0])), *seeds)
    smoothing, soft = draw(st.sampled_from([0.0, 0.1, 0.5])), draw(st.booleans())
    rich = random_direction(size, others, smoothing, soft, seed)
    columns = random_direction(others, size, smoothing, soft, seed + 1)
    return Case(
        queries=features(size, 5, generator),
        keys=features(others, 5, generator),
        temperature=draw(st.sampled_from([1e-3, 0.01, 0.1, 1.0])),
        bias=draw(st.sampled_from([-10.0, 0.0, 3.0])),
        rows=draw(st.sampled_from([Direction(smoothing=smoothing), rich])),
        columns=draw(st.sampled_from([None, columns])) if symmetric else None,
        regulation=regulation,
        symmetric=symmetric,
        key_gradient=draw(st.booleans()),
        trained=draw(st.sampled_from(["all", *NAMES])),
    )


def inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, temperature and bias, those that are trained with a gradient."""
    values = [case.queries, case.keys, torch.tensor(case.temperature).double(), torch.tensor(case.bias).double()]
    return [
        value.to(dtype, copy=True).requires_grad_(case.trained in (name, "all"))
        for name, value in zip(NAMES, values, strict=True)
    ]


def outcome(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The loss and the gradients of all inputs; 0 for those that are not trained or not reached."""
    trained = [x for x in tensors if x.requires_grad]
    found = iter(torch.autograd.grad(loss, trained, allow_unused=True) if loss.requires_grad else [None] * len(trained))
    grads = [next(found) if x.requires_grad else None for x in tensors]
    return [loss.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(tensors, grads, strict=True))]


def run(case: Case, implementation: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    tensors = inputs(case, dtype)
    names = ("rows", "columns", "regulation", "symmetric", "key_gradient")
    settings = {name: getattr(case, name) for name in names}
    return outcome(sigmoid_loss(*tensors, **settings, implementation=implementation), tensors)


def of_direction(
    anchors: Tensor, candidates: Tensor, temperature: Tensor, bias: Tensor, direction: Direction, weights: Tensor
) -> Tensor:
    """Sum over the cells of one direction, one after the other; ``weights`` hold where none is given [A, C]."""
    total = anchors.new_zeros(())
    shape = (len(anchors), len(candidates))
    positives = PairSet.diagonal(*shape) if direction.positives is None else direction.positives
    known = {(int(i), int(j)): float(v) for i, j, v in zip(positives.rows, positives.columns, positives.values)}
    given = direction.weights or PairSet.empty(*shape)
    own = {(int(i), int(j)): float(v) for i, j, v in zip(given.rows, given.columns, given.values)}
    for i in range(shape[0]):
        for j in range(shape[1]):
            cell = (i, j)
            label = known.get(cell, 0.0) if direction.soft is None else float(direction.soft[cell])
            label = (1 - direction.smoothing) * label + direction.smoothing / shape[1]
            weight = 1.0 if cell in known else own.get(cell, float(weights[cell]))
            logit = anchors[i] @ candidates[j] / temperature + bias
            total = total - weight * (label * F.logsigmoid(logit) + (1 - label) * F.logsigmoid(-logit))
    return total


def by_loops(case: Case) -> list[Tensor]:
    """The same with loops over all cells."""
    tensors = inputs(case, torch.float64)
    queries, keys, temperature, bias = tensors
    columns = case.columns
    if columns is None:
        flipped = [None if x is None else x.T for x in (case.rows.positives, case.rows.soft, case.rows.weights)]
        columns = Direction(flipped[0], case.rows.smoothing, flipped[1], flipped[2])  # type: ignore[arg-type]
    parts = [(queries, keys, case.rows, False)] + [(keys, queries, columns, True)] * case.symmetric
    sums = []
    for anchors, candidates, direction, flip in parts:
        candidates = candidates if case.key_gradient else candidates.detach()
        weights = torch.ones(len(anchors), len(candidates)).double()
        if case.regulation is not None:
            free = ~direction.resolved_positives(tuple(weights.shape), weights.device).mask()
            if direction.weights is not None:
                free &= ~direction.weights.mask()
            seed = case.regulation.seed_queries @ case.regulation.seed_keys.T
            config, cosines = case.regulation.config, (anchors @ candidates.T).detach()
            weights = srcl_weights(
                seed.T if flip else seed,
                cosines,
                free,
                case.regulation.alpha,
                config.form,
                config.delta,
                config.tau_w,
            )
        sums.append(of_direction(anchors, candidates, temperature, bias, direction, weights) / len(queries))
    return outcome(torch.stack(sums).mean(), tensors)


def assert_same(case: Case, got: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Equal relative to the size of the quantities: logits and feature gradients 1 / t, the gradient of t 1 / t^2."""
    t = case.temperature
    for mine, theirs, size in zip(got, wanted, [1 / t, 1 / t, 1 / t, 1 / t**2, 1.0], strict=True):
        assert mine.isfinite().all()
        error = float((mine.double() - theirs.double()).abs().max())
        assert error <= tolerance * max(1.0, size * len(case.keys), float(theirs.abs().max()))


@settings(max_examples=50, deadline=None)
@given(cases(largest=7))
def test_dense_and_tiled_equal_loops(case: Case) -> None:
    wanted = by_loops(case)
    for implementation in ("dense", "tiled"):
        assert_same(case, run(case, implementation), wanted, 1e-13)


@settings(max_examples=50, deadline=None)
@given(cases(largest=80))
def test_tiled_equals_dense(case: Case) -> None:
    case = replace(case, queries=case.queries.float().double(), keys=case.keys.float().double())
    wanted = run(case, "dense")
    assert_same(case, run(case, "tiled"), wanted, 1e-13)
    # At 1e-3 a float32 logit of 1000 is known to 6e-5.
    tolerance = 1e-5 if case.temperature > 1e-3 else 1e-4
    assert_same(case, run(case, "tiled", torch.float32), wanted, tolerance)
    assert_same(case, run(case, "dense", torch.float32), wanted, tolerance)
