import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truepair.randomness import (
    GOLDEN,
    isolated_rng,
    keyed_integers,
    keyed_uniform,
    sample_keys,
    seed_generators,
    splitmix64,
    stable_hash,
    stable_hashes,
    unit_interval,
)

KEYS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=4), max_size=4).map(tuple)


@given(KEYS, KEYS)
def test_hashes_differ_exactly_when_keys_do(left, right):
    assert (stable_hash(*left) == stable_hash(*right)) == (left == right)
    assert 0 <= stable_hash(*left) < 2**63


def test_keys_are_coded_without_ambiguity():
    sequences = [("ab", "c"), ("a", "bc"), ("abc",), (1,), ("1",), (1, 2), (12,), (), ("",)]

    assert len({stable_hash(*keys) for keys in sequences}) == len(sequences)


def test_hashes_are_the_same_in_every_process_and_release():
    assert stable_hash(0, "augment") == 1599011339791362132


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generators_are_as_before(fails):
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    try:
        with isolated_rng(7):
            inside = torch.rand(3)
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(stable_hash(7))))


def test_seeding_is_that_of_torch() -> None:
    seed_generators(3, "step")
    drawn = torch.rand(4)
    torch.manual_seed(stable_hash(3, "step"))
    assert torch.equal(drawn, torch.rand(4))


def splitmix(x: int) -> int:
    """The finaliser with Python integers."""
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@pytest.mark.parametrize("parts", [(0,), (1, 2), (2**62 + 5, 3, 10**12), (2**63 - 1, 0, 0)])
def test_keys_equal_integer_arithmetic(parts: tuple[int, ...]) -> None:
    key = 0
    for part in parts:
        key = splitmix((key * 0xBF58476D1CE4E5B9 + part + 0x9E3779B97F4A7C15) & ((1 << 64) - 1))
    assert int(sample_keys(*parts)) % 2**64 == key
    assert int(sample_keys(*parts[:-1], torch.tensor([parts[-1]]))) % 2**64 == key


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = keyed_uniform(sample_keys(0, 0, torch.arange(2000)), 50).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs(numbers.var() - 1 / 12) < 0.002
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi square with 19 degrees of freedom
    for neighbour in (numbers.roll(1, 0), numbers.roll(1, 1)):
        assert abs(torch.corrcoef(torch.stack([numbers.flatten(), neighbour.flatten()]))[0, 1]) < 0.015


@pytest.mark.parametrize("below", [1, 7, 30_522, 2**24])
def test_integers_are_the_floor_of_the_exact_product(below: int) -> None:
    keys = sample_keys(0, 1, torch.arange(2000))
    found, expected = keyed_integers(keys, 50, below, stream=2), keyed_uniform(keys, 50, stream=2).double() * below
    assert torch.equal(found, expected.long()) and found.max() < below
    assert abs(found.double().mean() / below - 0.5 * (below - 1) / below) < 0.005


def test_a_number_depends_on_its_own_key_only() -> None:
    ids = torch.arange(10)
    together = keyed_uniform(sample_keys(7, 3, ids), 6)
    alone = torch.cat([keyed_uniform(sample_keys(7, 3, ids[[i]]), 9)[:, :6] for i in range(10)])
    assert torch.equal(together, alone)


def test_seed_epoch_id_and_stream_all_matter() -> None:
    ids = torch.tensor([5])
    draws = [
        keyed_uniform(sample_keys(seed, epoch, ids), 8, stream)
        for seed, epoch, stream in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 5


def test_the_mix_is_that_of_splitmix64():
    counters = torch.tensor([1, 2]) * GOLDEN  # the published generator, seeded with 0
    assert [value % 2**64 for value in splitmix64(counters).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert unit_interval(torch.tensor([0, -1])).tolist() == [0.0, 1.0 - 2.0**-24]


def test_hashes_of_many_are_those_of_one_at_a_time() -> None:
    numbers, texts = [0, -7, 2**63 - 1], ["", "hund \u00e4", "\ud83d" + "x" * 300]

    found = stable_hashes("caption", numbers, texts, 3)

    assert found == [stable_hash("caption", number, text, 3) for number, text in zip(numbers, texts, strict=True)]
