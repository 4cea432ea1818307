import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from truepair.sampling.known import KnownMatches, _Swaps, separate


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


@settings(max_examples=60)
@given(matches())
def test_matrix_and_partners_agree_with_the_definition(case: tuple[NDArray[np.int64], ...]) -> None:
    keys, pairs, samples = case
    known = KnownMatches(keys, pairs)
    expected = [[match_by_hand(keys, pairs, a, b) for b in samples] for a in samples]
    assert known.matrix(samples).tolist() == expected
    for sample in samples:
        partners = [other for other in range(len(keys)) if match_by_hand(keys, pairs, int(sample), other)]
        assert known.partners(int(sample)).tolist() == partners


@settings(max_examples=60)
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


@settings(max_examples=50)
@given(st.integers(2, 8), st.integers(1, 8), st.integers(0, 5), st.integers(0, 1000))
def test_groups_that_fit_are_parted(batches: int, batch_size: int, spare: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = batches * batch_size + spare
    bounds = np.arange(batches + 1) * batch_size
    keys = rng.integers(0, max(1, count // 2), count)
    order = rng.permutation(count)
    known = KnownMatches(keys)
    parted, left = separate(order, bounds, known, rng)
    assert sorted(parted.tolist()) == list(range(count))
    shown = keys[parted[: bounds[-1]]].reshape(batches, batch_size)
    assert left == sum(len(row) - len(set(row.tolist())) for row in shown)
    before = keys[order[: bounds[-1]]].reshape(batches, batch_size)
    assert left <= sum(len(row) - len(set(row.tolist())) for row in before)


def test_captions_of_sorted_images_all_find_a_place() -> None:
    keys = np.repeat(np.arange(200), 5)  # five captions an image, side by side
    bounds = np.arange(0, 1001, 50)
    parted, left = separate(np.arange(1000), bounds, KnownMatches(keys), np.random.default_rng(0))
    assert left == 0
    assert all(len(set(row.tolist())) == 50 for row in keys[parted].reshape(20, 50))


def test_a_sample_with_more_matches_than_batches_is_counted() -> None:
    order, left = separate(
        np.arange(12), np.array([0, 4, 8, 12]), KnownMatches(np.array([1] * 5 + [-1] * 7)), np.random.default_rng(0)
    )
    assert sorted(order.tolist()) == list(range(12))
    assert left == 2  # five in three batches


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(2, 8), st.integers(1, 60), st.integers(0, 1000))
def test_a_popular_caption_meets_itself_as_seldom_as_can_be(batches: int, size: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = min(rows, batches * size)
    keys = np.full((batches * size, 1), -1)
    keys[rng.permutation(len(keys))[:rows]] = 7
    known = KnownMatches(keys)
    _, left = separate(rng.permutation(len(keys)), np.arange(batches + 1) * size, known, rng)
    assert left >= max(0, rows - batches)
    if rows <= batches * size - batches:  # there is room to swap with
        assert left <= max(0, rows - batches) + 1
    assert known.crowded(batches).tolist() == ([rows] if rows > batches else [])


@settings(max_examples=60)
@given(matches(), st.integers(1, 6))
def test_swaps_keep_count_of_what_each_batch_holds(case: tuple[NDArray[np.int64], ...], size: int) -> None:
    keys, pairs, _ = case
    rng = np.random.default_rng(0)
    bounds = np.arange(len(keys) // size + 1) * size
    swaps = _Swaps(rng.permutation(len(keys)), bounds, KnownMatches(keys, pairs), rng)
    for place in range(int(bounds[-1])):
        swaps.move(place)
        for sample in range(len(keys)):
            for batch in range(len(bounds) - 1):
                inside = swaps.order[bounds[batch] : bounds[batch + 1]]
                met = any(match_by_hand(keys, pairs, sample, int(other)) for other in inside)
                assert swaps._meets(sample, batch) == met
    assert swaps.order[swaps.place].tolist() == list(range(len(keys)))


def test_a_clean_order_is_not_touched() -> None:
    order = np.random.default_rng(0).permutation(40)
    same, left = separate(order, np.arange(0, 41, 8), KnownMatches(np.arange(40)), np.random.default_rng(0))
    assert same.tolist() == order.tolist()
    assert left == 0


def test_samples_left_out_stay_left_out() -> None:
    keys = np.array([1, 1, 2, 3, 1, 1])
    order, left = separate(np.arange(6), np.array([0, 2, 4]), KnownMatches(keys), np.random.default_rng(0))
    assert order[4:].tolist() == [4, 5]
    assert left == 0
