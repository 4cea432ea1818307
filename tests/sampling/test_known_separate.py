import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.sampling.known import KnownMatches, separate


@settings(max_examples=50, deadline=None)
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
