import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import CheckpointError, ConfigError
from truepair.sampling.plan import PlanFolder, checksum, lay_out, step_bounds


@settings(max_examples=200, deadline=None)
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
