import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.pairs import make_features
from truepair.errors import CheckpointError, ConfigError
from truepair.sampling.plan import (
    CollectedFeatures,
    PlanFolder,
    checksum,
    lay_out,
    random_batches,
    rank_share,
    step_bounds,
)


@settings(max_examples=200)
@given(st.integers(1, 300), st.integers(1, 20), st.sampled_from([1, 2, 4]), st.booleans())
def test_steps_cover_the_epoch_and_feed_every_rank(count: int, batch: int, ranks: int, drop_last: bool) -> None:
    whole = batch * ranks
    if count < (whole if drop_last else ranks):
        with pytest.raises(ConfigError):
            step_bounds(count, whole, ranks, drop_last=drop_last)
        return
    bounds = step_bounds(count, whole, ranks, drop_last=drop_last)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == (count - count % whole if drop_last else count)
    assert sizes.min() >= ranks
    assert set(sizes[:-2].tolist()) <= {whole}
    if batch > 1:
        assert sizes.max() <= whole
        assert len(sizes) == (count // whole if drop_last else -(-count // whole))
    if count >= whole:
        assert sizes.min() * 2 >= whole  # no step of a few samples


def test_the_cut_does_not_depend_on_the_ranks() -> None:
    for count in range(12, 60):
        cuts = [step_bounds(count, 12, ranks, drop_last=False).tolist() for ranks in (1, 2, 4)]
        assert cuts[0] == cuts[1] == cuts[2]


def test_groups_are_slices_of_walks_in_random_order() -> None:
    walks = [np.arange(0, 10), np.arange(10, 17)]
    order = lay_out(walks, np.array([17, 18]), np.array([19]), 3, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(20))
    assert order[-1] == 19
    groups = {tuple(group) for group in order[:18].reshape(6, 3).tolist()}
    assert {(0, 1, 2), (3, 4, 5), (6, 7, 8), (10, 11, 12), (13, 14, 15)} <= groups
    assert order[18] in (17, 18)  # what fills no group comes last
    others = lay_out(walks, np.array([17, 18]), np.array([19]), 3, np.random.default_rng(1))
    assert order.tolist() != others.tolist()


def test_a_plan_comes_back(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path / "plans")
    order = np.random.default_rng(0).permutation(50) + 2**40
    plans.write(3, order)
    assert plans.read(3).tolist() == order.tolist()
    assert [path.name for path in (tmp_path / "plans").iterdir()] == ["plan-00003.npy"]
    assert checksum(order) != checksum(order[::-1])


def test_a_process_killed_while_writing_leaves_the_old_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = PlanFolder(tmp_path)
    plans.write(1, np.arange(1000))

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        for epoch in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                plans.write(epoch, np.arange(1000)[::-1])
    assert plans.read(1).tolist() == list(range(1000))
    with pytest.raises(CheckpointError, match="cannot read the plan"):
        plans.read(2)
    plans.write(2, np.arange(5))  # and the leftovers are in nobody's way
    assert plans.read(2).tolist() == list(range(5))


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    plans.write(1, np.arange(1000))
    plans.path(1).write_bytes(plans.path(1).read_bytes()[:500])
    with pytest.raises(CheckpointError, match="plan-00001"):
        plans.read(1)
    np.save(plans.path(2), np.arange(5.0))
    with pytest.raises(CheckpointError, match="is not a plan"):
        plans.read(2)
    np.save(plans.path(3), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot read"):
        plans.read(3)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"could not write .*plan-00001\.npy"):
        PlanFolder(tmp_path / "plans").write(1, np.arange(3))


@settings(max_examples=60)
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


def test_it_holds_what_was_added_and_keeps_what_is_asked() -> None:
    image, text = make_features(10)
    queue = CollectedFeatures(12, torch.float32)
    assert len(queue) == 0
    queue.add(torch.arange(4), image[:4], text[:4])
    queue.add(torch.arange(4, 10), image[4:], text[4:])
    assert torch.equal(queue.index, torch.arange(10))
    assert torch.equal(queue.image, image)
    assert torch.equal(queue.text, text)
    queue.keep(torch.tensor([7, 2]))
    assert queue.index.tolist() == [7, 2]
    assert torch.equal(queue.image, image[[7, 2]])
    queue.keep(torch.tensor([], dtype=torch.int64))
    assert len(queue) == 0


def test_storage_in_half_precision() -> None:
    image, text = make_features(3)
    queue = CollectedFeatures(4, torch.bfloat16)
    queue.add(torch.arange(3), image, text)
    assert queue.image.dtype == queue.text.dtype == torch.bfloat16
    assert queue.image.data_ptr() != image.data_ptr()


def test_indices_above_two_to_the_24_stay_exact() -> None:
    image, text = make_features(72)
    queue = CollectedFeatures(72, torch.float16)
    index = torch.arange(16_777_216, 16_777_216 + 72)
    queue.add(index, image, text)
    assert torch.equal(queue.index, index)


def test_state_comes_back_and_is_a_copy() -> None:
    image, text = make_features(6)
    queue = CollectedFeatures(10, torch.float16)
    queue.add(torch.arange(3), image[:3], text[:3])
    state = queue.state_dict()
    queue.add(torch.arange(3, 6), image[3:], text[3:])
    other = CollectedFeatures(10, torch.float16)
    other.load_state_dict(state)
    assert len(other) == 3
    other.add(torch.arange(3, 6), image[3:], text[3:])
    assert torch.equal(other.image, queue.image)
    other.load_state_dict(CollectedFeatures(10, torch.float16).state_dict())
    assert len(other) == 0
