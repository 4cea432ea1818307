import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truepair.randomness import isolated_rng, keyed_generator, seed_generators, stable_hash

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


def test_a_generator_depends_on_its_keys_alone():
    torch.manual_seed(5)
    first = torch.rand(4, generator=keyed_generator(1, 2, "mask"))
    torch.manual_seed(6)

    assert torch.equal(first, torch.rand(4, generator=keyed_generator(1, 2, "mask")))
    assert not torch.equal(first, torch.rand(4, generator=keyed_generator(1, 3, "mask")))


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
    assert torch.equal(inside, torch.rand(3, generator=keyed_generator(7)))


def test_seeding_is_that_of_torch() -> None:
    seed_generators(3, "step")
    drawn = torch.rand(4)
    torch.manual_seed(stable_hash(3, "step"))
    assert torch.equal(drawn, torch.rand(4))
