import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.sampling.plan import random_batches, rank_share


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_every_sample_at_most_once(count: int, batch: int, epoch: int, drop_last: bool) -> None:
    if drop_last and count < batch:
        with pytest.raises(ValueError, match="lower the batch size"):
            random_batches(count, batch, seed=1, epoch=epoch)
        return
    batches = random_batches(count, batch, seed=1, epoch=epoch, drop_last=drop_last)
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == len(seen) == (count // batch * batch if drop_last else count)
    assert all(len(part) == batch for part in batches[:-1])


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = random_batches(50, 10, seed=3, epoch=2)
    again = random_batches(50, 10, seed=3, epoch=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = random_batches(50, 10, seed=3, epoch=3)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dropped_samples_change_from_epoch_to_epoch() -> None:
    dropped = [set(range(23)) - set(np.concatenate(random_batches(23, 5, seed=0, epoch=e)).tolist()) for e in range(20)]
    assert len(set().union(*dropped)) > 15


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_make_the_global_batch(ranks: int) -> None:
    batch = random_batches(64, 16, seed=0, epoch=0)[1]
    assert np.array_equal(np.concatenate([rank_share(batch, rank, ranks) for rank in range(ranks)]), batch)


def test_unequal_share_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared equally"):
        rank_share(np.arange(10), 0, 3)
