import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from truepair.sampling.known import KnownMatches


def match_by_hand(keys: NDArray[np.int64], pairs: NDArray[np.int64], a: int, b: int) -> bool:
    if a == b:
        return False
    same_key = any(x == y and x >= 0 for x, y in zip(keys[a], keys[b], strict=True))
    return same_key or any({a, b} == set(pair) for pair in pairs.tolist())


@st.composite
def matches(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Keys [N, 2], pairs [P, 2], and some distinct samples in random order."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(1, 25))
    keys = rng.integers(-2, draw(st.integers(1, 20)), (count, 2))
    pairs = rng.integers(0, count, (draw(st.integers(0, 15)), 2))
    return keys, pairs, rng.permutation(count)[: draw(st.integers(0, count))]


@settings(max_examples=60, deadline=None)
@given(matches())
def test_matrix_and_partners_agree_with_the_definition(case: tuple[NDArray[np.int64], ...]) -> None:
    keys, pairs, samples = case
    known = KnownMatches(keys, pairs)
    expected = [[match_by_hand(keys, pairs, a, b) for b in samples] for a in samples]
    assert known.matrix(samples).tolist() == expected
    for sample in samples:
        partners = [other for other in range(len(keys)) if match_by_hand(keys, pairs, int(sample), other)]
        assert known.partners(int(sample)).tolist() == partners


@settings(max_examples=60, deadline=None)
@given(matches(), st.integers(1, 4))
def test_clashes_are_found_where_they_are(case: tuple[NDArray[np.int64], ...], batches: int) -> None:
    keys, pairs, samples = case
    batch = np.arange(len(samples)) % batches
    found = KnownMatches(keys, pairs).clashes(samples, batch)
    assert found.tolist() == sorted(set(found.tolist()))
    rest = [(int(sample), int(b)) for place, (sample, b) in enumerate(zip(samples, batch, strict=True))]
    clean = [entry for place, entry in enumerate(rest) if place not in found]
    for number, (a, batch_a) in enumerate(clean):  # without those found, no batch holds a match
        for b, batch_b in clean[:number]:
            assert batch_a != batch_b or not match_by_hand(keys, pairs, a, b)
    for place in found:  # and each one found does clash
        a, batch_a = rest[place]
        assert any(batch_a == batch_b and match_by_hand(keys, pairs, a, b) for b, batch_b in rest)


def test_one_key_column_and_pairs_alone_will_do() -> None:
    keys = KnownMatches(np.array([5, 7, 5, -1, -1]))
    assert keys.partners(0).tolist() == [2]
    assert keys.partners(3).tolist() == []
    pairs = KnownMatches(pairs=np.array([[2, 9], [9, 4]]))
    assert pairs.partners(9).tolist() == [2, 4]
    assert KnownMatches().matrix(np.arange(3)).sum() == 0


def test_keys_of_63_bits_are_told_apart() -> None:
    large = 2**62 + 1
    assert KnownMatches(np.array([large, large + 1, large])).partners(0).tolist() == [2]


def test_pairs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs must be"):
        KnownMatches(pairs=np.zeros((3, 3), np.int64))
