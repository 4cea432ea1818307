import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SiglipModel

from tests.models.dual.tiny_hub import seeded, siglip
from tests.objectives.reference import srcl_weights
from truepair.objectives import sigmoid
from truepair.objectives.contrastive import Direction
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


def by_cell(pairs: PairSet) -> dict[tuple[int, int], float]:
    columns = (pairs.rows.tolist(), pairs.columns.tolist(), pairs.values.tolist())
    return {(i, j): value for i, j, value in zip(*columns, strict=True)}


def of_direction(
    anchors: Tensor, candidates: Tensor, temperature: Tensor, bias: Tensor, direction: Direction, weights: Tensor
) -> Tensor:
    """Sum over the cells of one direction, one after the other; ``weights`` hold where none is given [A, C]."""
    total = anchors.new_zeros(())
    shape = (len(anchors), len(candidates))
    positives = PairSet.diagonal(*shape) if direction.positives is None else direction.positives
    known, own = by_cell(positives), by_cell(direction.weights or PairSet.empty(*shape))
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


@settings(max_examples=50)
@given(cases(largest=7))
def test_dense_and_tiled_equal_loops(case: Case) -> None:
    wanted = by_loops(case)
    for implementation in ("dense", "tiled"):
        assert_same(case, run(case, implementation), wanted, 1e-13)


@settings(max_examples=50)
@given(cases(largest=80))
def test_tiled_equals_dense(case: Case) -> None:
    case = replace(case, queries=case.queries.float().double(), keys=case.keys.float().double())
    wanted = run(case, "dense")
    assert_same(case, run(case, "tiled"), wanted, 1e-13)
    # At 1e-3 a float32 logit of 1000 is known to 6e-5.
    tolerance = 1e-5 if case.temperature > 1e-3 else 1e-4
    assert_same(case, run(case, "tiled", torch.float32), wanted, tolerance)
    assert_same(case, run(case, "dense", torch.float32), wanted, tolerance)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_without_relations_it_is_the_loss_of_transformers(implementation: str) -> None:
    model = seeded(siglip).double()
    assert isinstance(model, SiglipModel)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(20, 3, 16, 16, generator=generator).double()
    tokens = torch.randint(3, 40, (20, 12), generator=generator)
    gradients = []
    for ours in (False, True):
        model.zero_grad()
        output = model(input_ids=tokens, pixel_values=pixels, return_loss=True)
        loss = output.loss
        if ours:
            features, temperature = (output.image_embeds, output.text_embeds), (-model.logit_scale).exp()[0]
            loss = sigmoid_loss(*features, temperature, model.logit_bias[0], implementation=implementation)
        torch.testing.assert_close(loss, output.loss, rtol=1e-13, atol=0)
        loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert gradients[0]["logit_bias"] != 0 and gradients[0]["logit_scale"] != 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def relations() -> BatchRelations:
    """Of a batch of 4, one cell for each action."""
    batch = BatchRelations(4)
    for action, cell in ((Relabel(), (0, 1)), (Mask(), (0, 2)), (Reweight(), (1, 3)), (Smooth(0.5), (2, 0))):
        row, column = (torch.tensor([place]) for place in cell)
        batch = batch.adding("rule", PairSet(row, column, torch.tensor([0.75]), (4, 4)), action)
    return batch


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_what_each_action_makes_of_a_cell(implementation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    queries, keys = features(4, 5, generator), features(4, 5, generator)
    labels, weights = torch.eye(4).double(), torch.ones(4, 4).double()
    labels[0, 1] = 1.0  # a whole match beside the own pair
    weights[0, 2] = 0.0
    weights[1, 3] = 0.25
    labels[2, 0] = 0.375
    wanted = F.binary_cross_entropy_with_logits(queries @ keys.T / 0.1 - 3, labels, weights, reduction="sum") / 4
    rows = Direction.of_relations(relations(), "i2t")
    found = sigmoid_loss(queries, keys, 0.1, -3.0, rows=rows, implementation=implementation)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_smoothing_leaves_the_bias_where_it_rests(smoothing: float) -> None:
    """Where features say nothing, the bias settles on the share of matches: one of the keys of a query."""
    nothing, size = torch.zeros(50, 3, dtype=torch.float64), 50
    bias = torch.tensor(1 / size, dtype=torch.float64).logit().requires_grad_()
    (gradient,) = torch.autograd.grad(
        sigmoid_loss(nothing, nothing, 0.1, bias, rows=Direction(smoothing=smoothing)), bias
    )
    assert abs(float(gradient)) < 1e-14


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_weights_of_the_regulation_have_mean_one(implementation: str) -> None:
    """Features without meaning: the loss of the negatives is what it is without a regulation."""
    generator = torch.Generator().manual_seed(2)
    seeds = features(40, 6, generator), features(40, 6, generator)
    regulation = Regulation(RegulationConfig("tempered", tau_w=0.1), 1.0, *seeds)
    nothing = torch.zeros(40, 3, dtype=torch.float64)
    for rows in (None, Direction.of_relations(BatchRelations(40), "i2t", 0.2)):
        plain = sigmoid_loss(nothing, nothing, 0.1, -2.0, rows=rows, implementation=implementation)
        regulated = sigmoid_loss(
            nothing, nothing, 0.1, -2.0, rows=rows, regulation=regulation, implementation=implementation
        )
        torch.testing.assert_close(regulated, plain)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_masked_cell_pulls_at_nothing(implementation: str) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, keys = features(29, 8, generator), features(30, 8, generator).requires_grad_()
    column = PairSet(torch.arange(29), torch.full((29,), 29), torch.zeros(29), (29, 30))
    for some, silent in ((column, True), (None, False)):
        rows = Direction(smoothing=0.2, weights=some)
        loss = sigmoid_loss(queries, keys, 0.1, -3.0, rows=rows, symmetric=False, implementation=implementation)
        (grad,) = torch.autograd.grad(loss, keys)
        assert (float(grad[29].abs().max()) == 0.0) is silent


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_without_the_gradient_of_keys_features_have_half(implementation: str) -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = [features(20, 4, generator), features(20, 4, generator), torch.tensor(0.1), torch.tensor(-3.0)]
    tensors = [x.double().requires_grad_() for x in inputs]
    whole, half = (
        outcome(sigmoid_loss(*tensors, key_gradient=flag, implementation=implementation), tensors)
        for flag in (True, False)
    )
    for mine, theirs, share in zip(half, whole, (1.0, 0.5, 0.5, 1.0, 1.0), strict=True):
        torch.testing.assert_close(mine, share * theirs)


class Products(TorchDispatchMode):
    """Counts multiplications in matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run an operation; of a product, count what it takes."""
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            left, right = args[-2:]
            self.count += left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


def test_tiles_are_computed_once_and_not_kept() -> None:
    generator = torch.Generator().manual_seed(5)
    queries, keys = (features(100, 4, generator).requires_grad_() for _ in range(2))
    cells, kept = 100 * 100 * 4, []
    with Products() as products, torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = sigmoid_loss(queries, keys, 0.1, -3.0, rows=Direction(smoothing=0.5), implementation="tiled")
        loss.backward()
    assert products.count == 3 * cells  # logits, and the gradients of both sides
    assert max(x.numel() for x in kept) == 100 * 4
    with Products() as products, torch.no_grad():
        silent = sigmoid_loss(queries, keys, 0.1, -3.0, rows=Direction(smoothing=0.5), implementation="tiled")
    assert products.count == cells and torch.equal(silent, loss)


def test_softplus_is_exact_everywhere() -> None:
    for dtype, tolerance in ((torch.float32, 3e-7), (torch.float64, 1e-15)):
        logits = torch.cat([torch.linspace(-80, 80, 4001, dtype=dtype), torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)])
        wanted = torch.logaddexp(logits.double(), torch.zeros((), dtype=torch.float64))
        found = softplus(logits, torch.empty_like(logits), torch.empty_like(logits)).double()
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=0)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("size", [1, 2, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_never_a_nan(implementation: str, size: int, dtype: torch.dtype) -> None:
    everything = torch.ones(size, size)
    directions = [
        Direction(),
        Direction(smoothing=0.5),
        Direction(PairSet.from_dense(everything)),
        Direction(weights=PairSet.from_dense(everything * 0, where=everything.bool())),  # all but the positives masked
    ]
    for alike in (0.0, 0.5, -0.5):
        for direction in directions:
            for regulation in (None, Regulation(RegulationConfig("softmax"))):
                queries = torch.full((size, 4), alike, dtype=dtype).requires_grad_()
                keys = torch.full((size, 4), 0.5, dtype=dtype).requires_grad_()
                others = [torch.tensor(value, requires_grad=True) for value in (1e-3, -10.0)]
                with torch.autocast("cpu", dtype=torch.bfloat16 if dtype == torch.float32 else dtype):
                    loss = sigmoid_loss(
                        queries, keys, *others, rows=direction, regulation=regulation, implementation=implementation
                    )
                    loss.backward()
                assert loss.dtype == torch.float32
                for value in (loss, *(x.grad for x in (queries, keys, *others))):
                    assert value is not None and value.isfinite().all()


def test_nan_features_are_not_hidden() -> None:
    broken = torch.full((4, 3), torch.nan)
    for implementation in ("dense", "tiled"):
        assert sigmoid_loss(broken, broken, 0.1, -10.0, implementation=implementation).isnan()


def test_auto_decides_by_the_number_of_cells() -> None:
    assert sigmoid._chosen("auto", sigmoid.DENSE_LIMIT) is sigmoid._SUMS["dense"]
    assert sigmoid._chosen("auto", sigmoid.DENSE_LIMIT + 1) is sigmoid._SUMS["tiled"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": Direction(PairSet.diagonal(3, 3))}, "matrix"),
        ({"rows": Direction(PairSet.from_dense(2 * torch.eye(4)))}, "numbers from 0 to 1"),
        ({"rows": Direction(soft=torch.eye(4) - 0.1)}, "numbers from 0 to 1"),
        ({"rows": Direction(offset=1), "symmetric": False}, "offset"),
        ({"implementation": "fast"}, "'dense' or 'tiled'"),
    ],
)
def test_wrong_use_says_so(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_loss(torch.eye(4), torch.eye(4), 0.07, -10.0, **arguments)
    with pytest.raises(ValueError, match="symmetric=False"):
        sigmoid_loss(torch.eye(4)[:2], torch.eye(4), 0.07, -10.0)
