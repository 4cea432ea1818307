import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.golden_grit import check_grit_order
from tests.sampling.pairs import make_features
from truepair.sampling import grit
from truepair.sampling.grit import grit_order, walk_spaces
from truepair.sampling.hardness import HardnessSchedule
from truepair.sampling.known import KnownMatches
from truepair.sampling.spaces import cut_spaces

TESTS = Path(__file__).parents[1]


def walk_by_hand(
    image: Tensor,
    text: Tensor,
    start: int,
    *,
    quantile: Tensor | None = None,
    forbidden: Tensor | None = None,
    batch_size: int = 0,
) -> list[int]:
    """One step at a time, as the paper describes it."""
    similarity = (image @ text.T).tolist()
    order = [start]
    while len(order) < len(image):
        here = order[-1]
        from_image = len(order) % 2 == 1
        left = [other for other in range(len(image)) if other not in order]
        if forbidden is not None:
            batch = order[len(order) // batch_size * batch_size :]
            left = [other for other in left if not any(forbidden[member, other] for member in batch)] or left
        left.sort(key=lambda other: similarity[here][other] if from_image else similarity[other][here], reverse=True)
        q = 1.0 if quantile is None else float(quantile[here])
        order.append(left[int(np.round(np.float32(1 - np.float32(q)) * (len(left) - 1)))])
    return order


def is_permutation(order: Tensor) -> bool:
    return torch.equal(order.sort(dim=-1).values, torch.arange(order.shape[-1]).expand_as(order))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 1000), st.data())
def test_it_is_the_walk_of_the_paper(samples: int, seed: int, data: st.DataObject) -> None:
    image, text = make_features(samples, seed=seed)
    start = data.draw(st.integers(0, samples - 1))
    assert grit_order(image, text, start=start).tolist() == walk_by_hand(image, text, start)


@settings(max_examples=40)
@given(
    st.integers(0, 3),
    st.integers(0, 30),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([1.0, 1e-3]),
    st.sampled_from(["spread", "equal", "zero", "nan"]),
    st.integers(0, 1000),
)
def test_always_a_permutation(
    spaces: int, samples: int, dtype: torch.dtype, temperature: float, kind: str, seed: int
) -> None:
    image, text = (part.view(spaces, samples, 8) for part in make_features(spaces * samples, seed=seed))
    if kind == "equal":
        image, text = torch.ones_like(image), torch.ones_like(text)
    elif kind == "zero":
        image = torch.zeros_like(image)
    elif kind == "nan":
        image = image.where(torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) > 0.3, torch.nan)
        text = text.where(torch.rand(text.shape, generator=torch.Generator().manual_seed(seed + 1)) > 0.1, -torch.inf)
    order = grit_order((image / temperature).to(dtype), text.to(dtype))
    assert order.shape == (spaces, samples)
    assert order.dtype == torch.int64
    assert is_permutation(order)


def test_low_temperatures_do_not_change_the_walk() -> None:
    image, text = (part.double() for part in make_features(200))
    cold = grit_order(image / 2**-10, text)  # a power of two, so that nothing is rounded
    assert torch.equal(cold, grit_order(image, text))


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_spaces_do_not_disturb_each_other(at_once: int) -> None:
    image, text = (part.view(5, 24, 8) for part in make_features(120))
    start = torch.tensor([0, 3, 23, 7, 7])
    together = grit_order(image, text, start=start, at_once=at_once)
    for space in range(5):
        assert torch.equal(together[space], grit_order(image[space], text[space], start=int(start[space])))


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(0, 1000), st.booleans())
def test_quantiles(samples: int, seed: int, with_forbidden: bool) -> None:
    image, text = (part.double() for part in make_features(samples, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    quantile = torch.rand(samples, generator=generator)
    forbidden = (torch.rand(samples, samples, generator=generator) < 0.2).triu(1)
    relations: dict[str, Any] = {"forbidden": forbidden | forbidden.T, "batch_size": 6} if with_forbidden else {}
    order = grit_order(image, text, quantile=quantile, **relations)
    assert is_permutation(order)
    assert order.tolist() == walk_by_hand(image, text, 0, quantile=quantile, **relations)


def test_the_dial_turns_from_hardest_to_easiest() -> None:
    image, text = make_features(300)
    assert torch.equal(grit_order(image, text), grit_order(image, text, quantile=torch.ones(300)))

    def step_similarity(quantile: float) -> float:
        order = grit_order(image, text, quantile=quantile)
        hops = (image @ text.T)[order[:-1:2], order[1::2]]
        return float(hops.mean())

    dial = [step_similarity(quantile) for quantile in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert dial == sorted(dial)
    assert dial[-1] - dial[0] > 0.8


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_forbidden_pairs(samples: int, batch_size: int, density: float, seed: int) -> None:
    image, text = make_features(samples, seed=seed)
    forbidden = (torch.rand(samples, samples, generator=torch.Generator().manual_seed(seed)) < density).triu(1)
    forbidden = forbidden | forbidden.T
    order = grit_order(image, text, forbidden=forbidden, batch_size=batch_size)
    assert is_permutation(order)  # even when every pair is forbidden
    assert order.tolist() == walk_by_hand(image, text, 0, forbidden=forbidden, batch_size=batch_size)


def test_captions_of_one_image_are_parted() -> None:
    image, text = make_features(40)
    key = torch.arange(40) // 4  # ten images of four captions
    image = image[key]  # the very same image, so that the plain walk would put its captions side by side
    forbidden = key[:, None] == key

    def repeats(order: Tensor) -> list[int]:
        return [len(batch) - len(batch.unique()) for batch in key[order].view(5, 8)]

    assert sum(repeats(grit_order(image, text))) > 5
    assert repeats(grit_order(image, text, forbidden=forbidden, batch_size=8))[:4] == [0] * 4  # the last has no choice


def test_tensors_walk_as_arrays_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes the way of tensors in lock-step; here it is taken on the CPU."""
    image, text = (part.view(3, 30, 8) for part in make_features(90))
    forbidden = torch.arange(30)[:, None] % 10 == torch.arange(30) % 10
    options: list[dict[str, Any]] = [
        {},
        {"quantile": 0.7},
        {"forbidden": forbidden.expand(3, 30, 30).contiguous(), "batch_size": 7},
        {"forbidden": forbidden.expand(3, 30, 30).contiguous(), "batch_size": 7, "quantile": 0.25},
    ]
    arrays = [grit_order(image, text, **option) for option in options]
    monkeypatch.setattr(grit, "_native", lambda tensor: tensor)
    for option, order in zip(options, arrays, strict=True):
        assert torch.equal(grit_order(image, text, at_once=3, **option), order)


class CountWaits(TorchDispatchMode):
    """Counts the operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        name = str(func)
        self.waits += any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"quantile": 0.5}, {"batch_size": 8}])
def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setattr(grit, "_native", lambda tensor: tensor)

    def count(samples: int) -> CountWaits:
        image, text = (part.view(2, samples, 8) for part in make_features(2 * samples))
        relations = {"forbidden": torch.zeros(2, samples, samples, dtype=torch.bool)} if "batch_size" in options else {}
        with CountWaits() as counter:
            grit_order(image, text, start=torch.tensor([0, 1]), at_once=2, **options, **relations)
        return counter

    short, long = count(10), count(50)
    assert long.operations > short.operations  # the steps do pass through the counter
    assert long.waits == short.waits


def test_starts() -> None:
    image, text = (part.view(40, 16, 8) for part in make_features(640))
    first = grit_order(image, text, generator=torch.Generator().manual_seed(1))[:, 0]
    assert torch.equal(first, grit_order(image, text, generator=torch.Generator().manual_seed(1))[:, 0])
    many = grit_order(image.repeat(10, 1, 1), text.repeat(10, 1, 1), generator=torch.Generator().manual_seed(0))[:, 0]
    assert set(many.tolist()) == set(range(16))  # the last sample too
    assert grit_order(image, text)[:, 0].tolist() == [0] * 40
    for start in (-1, 16):
        with pytest.raises(ValueError, match="start must lie from 0 to 15"):
            grit_order(image, text, start=start)


def test_wrong_input_is_refused() -> None:
    image, text = make_features(10)
    with pytest.raises(ValueError, match="must both be"):
        grit_order(image, text[:9])
    with pytest.raises(ValueError, match="needs batch_size"):
        grit_order(image, text, forbidden=torch.zeros(10, 10, dtype=torch.bool))
    for quantile in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="quantile must lie"):
            grit_order(image, text, quantile=quantile)


def test_the_official_order_is_reproduced() -> None:
    rows = check_grit_order(TESTS / "data" / "golden" / "grit_order_1_64.safetensors")
    assert rows == [("order is a permutation", 0.0), ("order", 0.0)]


def test_a_wrong_order_is_told(tmp_path: Path) -> None:
    record = load_file(TESTS / "data" / "golden" / "grit_order_1_64.safetensors")
    record["order"][[20, 21]] = record["order"][[21, 20]]
    save_file(record, tmp_path / "wrong.safetensors")
    assert dict(check_grit_order(tmp_path / "wrong.safetensors"))["order"] == 2 / 64


def test_positions_are_cut_in_order() -> None:
    assert [space.tolist() for space in cut_spaces(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert cut_spaces(np.arange(0), 3) == []


def test_each_space_is_walked_from_its_start() -> None:
    image, text = make_features(50)
    spaces = cut_spaces(np.random.default_rng(0).permutation(50), 12)
    starts = [3, 0, 11, 5, 1]
    keys = np.arange(1000) // 3
    samples = np.random.default_rng(1).permutation(1000)[:50]
    for known in (None, KnownMatches(keys)):
        walks = walk_spaces(
            spaces,
            starts,
            image,
            text,
            samples=samples,
            group_size=4,
            hardness=HardnessSchedule(),
            epoch=1,
            known=known,
        )
        for space, start, walk in zip(spaces, starts, walks, strict=True):
            forbidden = None if known is None else torch.from_numpy(known.matrix(samples[space]))
            order = grit_order(image[space], text[space], start=start, forbidden=forbidden, batch_size=4)
            assert walk.tolist() == space[order.numpy()].tolist()
