import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.reference import direction_loss, srcl_weights
from truepair.objectives import contrastive
from truepair.objectives.contrastive import ContrastiveOutput, Direction, contrastive_loss, loss_at_chance
from truepair.objectives.srcl import Regulation, RegulationConfig
from truepair.objectives.tiled import Shifted, exponentials_for, tiled_sums
from truepair.relations.pairs import PairSet


@pytest.fixture(autouse=True)
def _many_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tiles, so that small batches have many of them, with ragged ends."""
    small = functools.partial(tiled_sums, tile=64)
    monkeypatch.setattr(contrastive, "_SUMS", {**contrastive._SUMS, "tiled": small})
    yield


@dataclass(frozen=True)
class Case:
    """A random call of the loss."""

    queries: Tensor
    keys: Tensor
    temperature: float
    rows: Direction
    columns: Direction
    regulation: Regulation | None
    key_gradient: bool
    trained: str = "all"  # which inputs have a gradient


def features(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def random_direction(size: int, smoothing: float, generator: torch.Generator) -> Direction:
    """Own pairs and others as positives, of random shares; random weights, a third of them 0."""

    def cells(rate: float) -> PairSet:
        chosen = torch.rand(size, size, generator=generator) < rate
        values = torch.rand(size, size, generator=generator, dtype=torch.float64)
        return PairSet.from_dense(values, where=chosen)

    positives = PairSet.union(PairSet.diagonal(size, size), cells(min(1.0, 3 / size)))
    weights = cells(0.2)
    weights = weights.with_values((weights.values * 1.5 - 0.5).clamp(min=0.0))
    return Direction(positives.with_values(positives.values.double()), smoothing, weights=weights)


@st.composite
def cases(draw: st.DrawFn, largest: int) -> Case:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = draw(st.integers(1, largest))
    seeds = [features(size, 6, generator) for _ in range(2)]
    form = draw(st.sampled_from([None, "literal", "softmax", "tempered"]))
    regulation = form and Regulation(RegulationConfig(form, 3.0, 0.3), draw(st.sampled_from([0.0, 0.4, 1.0])), *seeds)
    smoothing = draw(st.sampled_from([0.0, 0.1, 0.5]))
    plain = Direction(smoothing=smoothing)
    rich = [random_direction(size, smoothing, generator) for _ in range(2)]
    return Case(
        queries=features(size, 5, generator),
        keys=features(size, 5, generator),
        temperature=draw(st.sampled_from([1e-3, 0.01, 0.07, 1.0])),
        rows=draw(st.sampled_from([plain, rich[0]])),
        columns=draw(st.sampled_from([plain, rich[1]])),
        regulation=regulation,
        key_gradient=draw(st.booleans()),
        trained=draw(st.sampled_from(["all", "queries", "keys", "temperature"])),
    )


def inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and temperature, those that are trained with a gradient."""
    temperature = torch.tensor(case.temperature, dtype=torch.float64)
    tensors = {"queries": case.queries, "keys": case.keys, "temperature": temperature}
    return [x.to(dtype, copy=True).requires_grad_(case.trained in (name, "all")) for name, x in tensors.items()]


def gradients(case: Case, loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Gradients of queries, keys and temperature; 0 for those that are not trained."""
    found = torch.autograd.grad(loss, [x for x in tensors if x.requires_grad])
    of = iter(found)
    return [next(of) if x.requires_grad else torch.zeros_like(x) for x in tensors]


def run(case: Case, implementation: str, dtype: torch.dtype = torch.float64) -> tuple[ContrastiveOutput, list[Tensor]]:
    """The loss, its parts, and the gradients of queries, keys and temperature."""
    queries, keys, temperature = inputs(case, dtype)
    output = contrastive_loss(
        queries,
        keys,
        temperature,
        rows=case.rows,
        columns=case.columns,
        regulation=case.regulation,
        key_gradient=case.key_gradient,
        implementation=implementation,
    )
    return output, gradients(case, output.loss, queries, keys, temperature)


def brute_force(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """The same with loops: losses of both directions, and gradients."""
    queries, keys, temperature = inputs(case, torch.float64)
    size = len(queries)
    losses = []
    for anchors, candidates, direction, flip in (
        (queries, keys, case.rows, False),
        (keys, queries, case.columns, True),
    ):
        if not case.key_gradient:
            candidates = candidates.detach()
        positives = torch.eye(size).double() if direction.positives is None else direction.positives.dense()
        weights = torch.ones(size, size, dtype=torch.float64)
        if case.regulation is not None:
            free = positives == 0
            if direction.weights is not None:
                free &= ~direction.weights.mask()
            seed = case.regulation.seed_queries @ case.regulation.seed_keys.T
            config = case.regulation.config
            weights = srcl_weights(
                seed.T if flip else seed,
                (anchors @ candidates.T).detach(),
                free,
                case.regulation.alpha,
                config.form,
                config.delta,
                config.tau_w,
            )
        if direction.weights is not None:
            weights[direction.weights.rows, direction.weights.columns] = direction.weights.values
        weights[positives > 0] = 1.0
        losses.append(direction_loss(anchors @ candidates.T / temperature, positives, weights, direction.smoothing))
    loss = (losses[0].mean() + losses[1].mean()) / 2
    return losses, gradients(case, loss, queries, keys, temperature)


def assert_same(case: Case, got: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Equal relative to the size of the quantities: logits and feature gradients 1 / t, the gradient of t 1 / t^2."""
    t = case.temperature
    sizes = [1 / t] * (len(got) - 1) + [1 / t**2]
    for mine, theirs, size in zip(got, wanted, sizes, strict=True):
        assert mine.isfinite().all()
        error = float((mine.detach().double() - theirs.detach().double()).abs().max())
        assert error <= tolerance * max(1.0, size, float(theirs.detach().abs().max()))


def parts(output: ContrastiveOutput, grads: list[Tensor]) -> list[Tensor]:
    return [output.rows.losses, output.columns.losses, *grads]


@settings(max_examples=60)
@given(cases(largest=9))
def test_dense_and_tiled_equal_loops(case: Case) -> None:
    losses, grads = brute_force(case)
    for implementation in ("dense", "tiled"):
        assert_same(case, parts(*run(case, implementation)), losses + grads, 1e-12)


@settings(max_examples=40)
@given(cases(largest=300))
def test_tiled_equals_dense(case: Case) -> None:
    case = replace(case, queries=case.queries.float().double(), keys=case.keys.float().double())
    wanted = parts(*run(case, "dense"))
    assert_same(case, parts(*run(case, "tiled")), wanted, 1e-12)
    # At 1e-3 a float32 logit of 1000 is known to 6e-5, and no order of summation can know its exponential better.
    tolerance = 1e-5 if case.temperature > 1e-3 else 1e-4
    assert_same(case, parts(*run(case, "tiled", torch.float32)), wanted, tolerance)
    assert_same(case, parts(*run(case, "dense", torch.float32)), wanted, tolerance)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_info_nce_is_cross_entropy(implementation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = features(100, 8, generator), features(100, 8, generator)
    logits, own = queries @ keys.T / 0.07, torch.arange(100)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    output = contrastive_loss(queries, keys, 0.07, implementation=implementation)
    torch.testing.assert_close(output.loss, wanted, rtol=1e-13, atol=0)
    torch.testing.assert_close(output.rows.losses, F.cross_entropy(logits, own, reduction="none"))


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_all_weights_one_is_info_nce_exactly(implementation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    queries, keys = features(90, 8, generator), features(90, 8, generator)
    plain = contrastive_loss(queries, keys, 0.05, implementation=implementation)
    ones = PairSet.from_dense(torch.ones(90, 90, dtype=torch.float64))
    weighted = contrastive_loss(queries, keys, 0.05, rows=Direction(weights=ones), implementation=implementation)
    torch.testing.assert_close(weighted.loss, plain.loss, rtol=1e-14, atol=0)
    # A seed model to which everything looks the same gives every negative the weight 1.
    same = torch.ones(90, 1, dtype=torch.float64)
    regulation = Regulation(RegulationConfig("literal"), 1.0, same, same)
    regulated = contrastive_loss(queries, keys, 0.05, regulation=regulation, implementation=implementation)
    torch.testing.assert_close(regulated.loss, plain.loss, rtol=1e-14, atol=0)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_masked_pairs_get_no_gradient(implementation: str, smoothing: float) -> None:
    """A key that is masked for every query but its own gets nothing from them; unmasked it does."""
    generator = torch.Generator().manual_seed(2)
    queries, keys = features(70, 8, generator), features(70, 8, generator).requires_grad_()
    masked = torch.ones(70, 70, dtype=torch.bool)
    masked[3, 3] = False
    masked[:, [k for k in range(70) if k != 3]] = False
    weights = PairSet.from_dense(torch.zeros(70, 70), where=masked)
    for some, silent in ((weights, True), (None, False)):
        output = contrastive_loss(
            queries,
            keys,
            0.1,
            rows=Direction(smoothing=smoothing, weights=some),
            symmetric=False,
            implementation=implementation,
        )
        others = output.rows.losses.sum() - output.rows.losses[3]
        (grad,) = torch.autograd.grad(others, keys)
        assert (float(grad[3].abs().max()) == 0.0) is silent


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_soft_targets(implementation: str) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, keys = features(80, 8, generator), features(130, 8, generator)
    soft = torch.rand(80, 130, generator=generator, dtype=torch.float64).softmax(dim=1)
    output = contrastive_loss(
        queries, keys, 0.07, rows=Direction(soft=soft), symmetric=False, implementation=implementation
    )
    wanted = -(soft * F.log_softmax(queries @ keys.T / 0.07, dim=1)).sum(dim=1)
    torch.testing.assert_close(output.rows.losses, wanted)
    assert output.columns is None


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 1.0]))
def test_target_rows_sum_to_one(size: int, seed: int, smoothing: float) -> None:
    """Adding a constant to all logits moves the loss by the constant times (1 - the sum of the target row)."""
    generator = torch.Generator().manual_seed(seed)
    direction = random_direction(size, smoothing, generator)
    queries, keys = features(size, 5, generator), features(size, 5, generator)
    ones = torch.ones(size, 1, dtype=torch.float64)
    shifted = torch.cat([queries, 3 * ones], dim=1), torch.cat([keys, ones], dim=1)  # every product is 3 larger
    plain = contrastive_loss(queries, keys, 0.5, rows=direction, columns=direction)
    moved = contrastive_loss(*shifted, 0.5, rows=direction, columns=direction)
    torch.testing.assert_close(moved.rows.losses, plain.rows.losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_offset_rows_of_a_rank(implementation: str) -> None:
    """Two ranks with gathered keys give the two halves of the big batch."""
    generator = torch.Generator().manual_seed(4)
    queries, keys = features(60, 8, generator), features(60, 8, generator)
    whole = contrastive_loss(queries, keys, 0.07, symmetric=False).rows.losses
    for start in (0, 30):
        part = contrastive_loss(
            queries[start : start + 30],
            keys,
            0.07,
            rows=Direction(offset=start),
            symmetric=False,
            implementation=implementation,
        )
        torch.testing.assert_close(part.rows.losses, whole[start : start + 30])


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_rows_without_a_target_do_not_count(implementation: str) -> None:
    generator = torch.Generator().manual_seed(5)
    queries, keys = features(4, 8, generator).requires_grad_(), features(4, 8, generator)
    positives = PairSet(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.ones(2), (4, 4))
    output = contrastive_loss(
        queries, keys, 0.07, rows=Direction(positives), symmetric=False, implementation=implementation
    )
    assert output.rows.counted.tolist() == [True, False, True, False]
    torch.testing.assert_close(output.loss, output.rows.losses[[0, 2]].mean())
    output.loss.backward()
    assert queries.grad[[1, 3]].abs().max() == 0


def test_both_ways_of_exponentials_are_under_test() -> None:
    """The temperatures of the random cases lie on both sides of the limit, in both precisions."""
    chosen = {
        (dtype, temperature): type(exponentials_for(*unit_rows(dtype), torch.tensor(1 / temperature), None)).__name__
        for dtype in (torch.float32, torch.float64)
        for temperature in (1e-3, 0.01, 0.07)
    }
    assert list(chosen.values()) == ["Shifted", "Shifted", "Moderate", "Shifted", "Moderate", "Moderate"]
    srcl = Regulation(RegulationConfig("softmax", delta=25.0))
    assert isinstance(exponentials_for(*unit_rows(torch.float32), torch.tensor(10.0), srcl), Shifted)


def unit_rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.eye(3, dtype=dtype), torch.eye(3, dtype=dtype)


EXTREMES = {
    "identical rows": lambda n, g: (torch.ones(n, 4, dtype=torch.float64) / 2,) * 2,
    "zero features": lambda n, g: (torch.zeros(n, 4, dtype=torch.float64),) * 2,
    "opposite pairs": lambda n, g: (features(1, 4, g).expand(n, 4), -features(1, 4, g).expand(n, 4)),
}


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("size", [1, 2, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_never_a_nan(implementation: str, extreme: str, size: int, dtype: torch.dtype) -> None:
    queries, keys = (x.to(dtype).clone() for x in EXTREMES[extreme](size, torch.Generator().manual_seed(6)))
    everything = torch.ones(size, size)
    directions = [
        Direction(),
        Direction(smoothing=0.5),
        Direction(PairSet.from_dense(everything)),
        Direction(weights=PairSet.from_dense(everything * 0, where=everything.bool())),  # all but the positives masked
    ]
    for direction in directions:
        for regulation in (None, Regulation(RegulationConfig("softmax"))):
            q, k = queries.clone().requires_grad_(), keys.clone().requires_grad_()
            temperature = torch.tensor(1e-3, requires_grad=True)
            with torch.autocast("cpu", dtype=torch.bfloat16 if dtype == torch.float32 else dtype):
                output = contrastive_loss(
                    q, k, temperature, rows=direction, regulation=regulation, implementation=implementation
                )
                output.loss.backward()
            assert output.loss.dtype == torch.float32
            for value in (output.loss, q.grad, k.grad, temperature.grad):
                assert value.isfinite().all(), (extreme, size, direction)


def test_autocast_does_not_touch_the_arithmetic() -> None:
    generator = torch.Generator().manual_seed(7)
    queries, keys = features(70, 8, generator).float(), features(70, 8, generator).float()
    for implementation in ("dense", "tiled"):
        q = queries.clone().requires_grad_()
        plain = contrastive_loss(q, keys, 0.01, implementation=implementation).loss
        (wanted,) = torch.autograd.grad(plain, q)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = contrastive_loss(q, keys, 0.01, implementation=implementation).loss
        (grad,) = torch.autograd.grad(loss, q)
        assert torch.equal(loss, plain)
        assert torch.equal(grad, wanted)


def test_nan_features_are_not_hidden() -> None:
    queries = torch.full((4, 3), torch.nan)
    for implementation in ("dense", "tiled"):
        assert contrastive_loss(queries, queries, 0.07, implementation=implementation).loss.isnan()


@pytest.mark.parametrize("regulation", [None, Regulation(RegulationConfig("softmax"))])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_tiled_keeps_no_tile_for_the_backward_pass(regulation: Regulation | None, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(9)
    queries, keys = (features(512, 4, generator).requires_grad_() for _ in range(2))
    kept: dict[str, int] = {}
    for implementation in ("dense", "tiled"):
        sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x)
        with hooks:
            contrastive_loss(
                queries,
                keys,
                0.07,
                rows=Direction(smoothing=smoothing),
                regulation=regulation,
                implementation=implementation,
            )
        kept[implementation] = max(sizes)
    assert kept["dense"] >= 512 * 512 * 8
    assert kept["tiled"] <= 512 * 4 * 8


def test_auto_decides_by_the_number_of_logits() -> None:
    assert contrastive._chosen("auto", contrastive.DENSE_LIMIT) is contrastive._SUMS["dense"]
    assert contrastive._chosen("auto", contrastive.DENSE_LIMIT + 1) is contrastive._SUMS["tiled"]


def test_symmetric_default_reads_the_same_cells_from_the_other_side() -> None:
    generator = torch.Generator().manual_seed(8)
    queries, keys = features(20, 8, generator), features(20, 8, generator)
    rows = random_direction(20, 0.2, generator)
    implied = contrastive_loss(queries, keys, 0.07, rows=rows)
    explicit = contrastive_loss(queries, keys, 0.07, rows=rows, columns=rows.transposed())
    assert torch.equal(implied.loss, explicit.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": Direction(PairSet.diagonal(3, 3))}, "matrix"),
        ({"rows": Direction(soft=torch.full((4, 4), 0.25))}, "other direction explicitly"),
        ({"rows": Direction(offset=1), "symmetric": False}, "offset"),
        ({"implementation": "fast"}, "'dense' or 'tiled'"),
    ],
)
def test_wrong_use_says_so(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.eye(4), torch.eye(4), 0.07, **arguments)
    with pytest.raises(ValueError, match="symmetric=False"):
        contrastive_loss(torch.eye(4)[:2], torch.eye(4), 0.07)


@pytest.mark.parametrize("form", [None, "softmax", "tempered"])
@pytest.mark.parametrize("seed", range(4))
def test_chance_is_the_loss_of_features_that_are_all_alike(form: str | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = random_direction(9, 0.3, generator)
    if seed == 3:  # some anchors have no target
        assert direction.positives is not None
        direction = replace(direction, positives=direction.positives.where(direction.positives.rows % 2 == 0))
    of_seed = [features(9, 4, generator) for _ in range(2)]
    regulation = None if form is None else Regulation(RegulationConfig(form), 0.7, *of_seed)  # type: ignore[arg-type]
    nothing = torch.zeros(9, 4, dtype=torch.float64)
    wanted = contrastive_loss(nothing, nothing, 0.1, rows=direction, regulation=regulation, symmetric=False).loss
    found = loss_at_chance(direction, (9, 9), nothing.device)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    plain = loss_at_chance(Direction(offset=2), (4, 9), nothing.device)
    assert float(plain) == pytest.approx(math.log(9))
