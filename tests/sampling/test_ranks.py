import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.sampling.gloo import GlooPool
from tests.sampling.pairs import make_features, reward_of, run_epochs, suspects_of
from truepair.errors import ConfigError
from truepair.sampling.communities import CommunitiesConfig
from truepair.sampling.falcon import FalconConfig
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import PlanFolder
from truepair.sampling.ranks import Ranks

Run = list[list[list[int]]]

CASES: list[dict[str, Any]] = [
    {"count": 48, "space": 12, "queue": 24, "batch": 8, "drop_last": True},
    {"count": 49, "space": 12, "queue": 24, "batch": 8, "drop_last": True},
    {"count": 49, "space": 12, "queue": 24, "batch": 8, "drop_last": False},
    {"count": 55, "space": 7, "queue": 30, "batch": 12, "drop_last": False, "storage": "bfloat16"},
    {"count": 62, "space": 25, "queue": 1000, "batch": 16, "drop_last": False, "storage": "float16"},
    {"count": 40, "space": 13, "queue": 13, "batch": 4, "drop_last": True, "captions": 3, "group": 2},
    {"count": 23, "space": 1, "queue": 1, "batch": 8, "drop_last": False},
    {"count": 55, "space": 12, "queue": 30, "batch": 12, "drop_last": False, "learned": True},
    {"count": 55, "space": 13, "queue": 30, "batch": 12, "drop_last": False, "communities": 4, "captions": 3},
]


def make_sampler(case: dict[str, Any]) -> GroupedBatchSampler:
    """A sampler whose global batch is the same for any number of ranks."""
    config = GroupedConfig(
        search_space=case["space"],
        queue_size=case["queue"],
        group_size=case.get("group"),
        storage=case.get("storage", "float32"),
        communities=CommunitiesConfig(skip=1, neighbours=3, size=case["communities"])
        if "communities" in case
        else None,
        hardness=HardnessConfig(learned=FalconConfig(learning_rate=0.05) if case.get("learned") else None),
    )
    known = KnownMatches(np.arange(case["count"]) // case["captions"]) if "captions" in case else None
    ranks = Ranks.current()
    return GroupedBatchSampler(
        case["count"],
        case["batch"] // ranks.count,
        config=config,
        drop_last=case["drop_last"],
        known=known,
        plan_folder=case.get("folder"),
    )


def train(cases: list[dict[str, Any]]) -> list[Run]:
    """The batches of this rank, in three epochs of each case."""
    return [run_epochs(make_sampler(case), *make_features(case["count"]), 3, suspecting=True) for case in cases]


def stop(job: tuple[dict[str, Any], int]) -> dict[str, Tensor]:
    """The state after some steps."""
    case, steps = job
    sampler = make_sampler(case)
    image, text = make_features(case["count"])
    for _ in range(steps):
        index = torch.tensor(next(iter(sampler)))
        sampler.learn(reward_of(sampler))
        sampler.suspect(suspects_of(sampler))
        sampler.collect(index, image[index], text[index])
    return sampler.state_dict()


def go_on(job: tuple[dict[str, Any], dict[str, Tensor]]) -> Run:
    """The rest of the epoch, and the next."""
    case, state = job
    sampler = make_sampler(case)
    sampler.load_state_dict(state)
    return run_epochs(sampler, *make_features(case["count"]), 2, suspecting=True)


def gather_odd_shapes(_: None) -> list[Any]:
    ranks = Ranks.current()
    sizes = [3, 0, 1, 2][: ranks.count]
    rows = torch.full((sizes[ranks.rank], 2, 3), float(ranks.rank), dtype=torch.bfloat16)
    long = torch.full((sizes[ranks.rank],), 2**40 + ranks.rank)
    (nothing,) = ranks.gather([0] * ranks.count, torch.empty(0, dtype=torch.int64))
    own = ranks.broadcast(torch.tensor([ranks.rank + 5]))
    all_rows, all_long = ranks.gather(sizes, rows, long)
    return [all_rows[:, 1, 2].tolist(), all_long.tolist(), len(nothing), int(own)]


def die_in_epoch_1(folder: Path) -> int:
    """Rank 1 is gone once the epoch is planned."""
    case = {**CASES[0], "folder": folder}
    run_epochs(make_sampler(case), *make_features(case["count"]), 1)
    if Ranks.current().rank == 1:
        os._exit(1)
    return 0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlooPool]:
    pool = GlooPool(tmp_path_factory.mktemp("gloo"))
    yield pool
    pool.close()


def join(parts: list[Run]) -> list[list[list[int]]]:
    """The global batches of each epoch, from those of each rank."""
    return [
        [[index for batch in step for index in batch] for step in zip(*epoch, strict=True)]  # strict: steps are equal
        for epoch in zip(*parts, strict=True)
    ]


def test_the_global_order_is_the_same_on_1_2_and_4_ranks(pool: GlooPool) -> None:
    alone = train(CASES)
    for world in (1, 2, 4):
        ranks = pool.run(train, CASES, world)
        for number, case in enumerate(CASES):
            together = join([rank[number] for rank in ranks])
            assert together == alone[number], (world, case)
            for epoch in together:
                seen = [index for batch in epoch for index in batch]
                whole = case["count"] - (case["count"] % case["batch"] if case["drop_last"] else 0)
                assert len(set(seen)) == len(seen) == whole


@pytest.mark.parametrize("case", [CASES[2], {**CASES[2], "learned": True}, {**CASES[2], "communities": 2}])
def test_a_run_goes_on_with_another_number_of_ranks(pool: GlooPool, case: dict[str, Any]) -> None:
    steps = 9  # in the second epoch, with features in the queue
    states = pool.run(stop, (case, steps), 4)
    for state in states[1:]:
        assert all(torch.equal(state[name].nan_to_num(), states[0][name].nan_to_num()) for name in states[0])
    done = steps - 7  # of 7 steps an epoch
    expected = train([{**case}])[0][1]
    for world in (1, 2):
        epoch, _ = join(pool.run(go_on, (case, states[2]), world))
        assert epoch == expected[done:]


@pytest.mark.parametrize("world", [2, 4])
def test_gather_and_broadcast(pool: GlooPool, world: int) -> None:
    sizes = [3, 0, 1, 2][:world]
    ranks = [rank for rank, size in enumerate(sizes) for _ in range(size)]
    for rows, long, nothing, first in pool.run(gather_odd_shapes, None, world):
        assert rows == ranks
        assert long == [2**40 + rank for rank in ranks]
        assert nothing == 0
        assert first == 5


def test_a_single_process_needs_no_group() -> None:
    assert Ranks.current() == Ranks(0, 1)
    rows = torch.arange(3)
    assert Ranks().gather([3], rows) == (rows,)
    assert Ranks().broadcast(rows) is rows
    with pytest.raises(ConfigError, match="no process group"):
        Ranks(0, 2).gather([3, 3], rows)
    with pytest.raises(ConfigError, match="rank 2 of 2 does not exist"):
        Ranks(2, 2)


def test_a_rank_that_dies_leaves_a_readable_plan(pool: GlooPool, tmp_path: Path) -> None:
    with pytest.raises((EOFError, ConnectionResetError)):
        pool.run(die_in_epoch_1, tmp_path, 2)
    assert sorted(PlanFolder(tmp_path).read(1).tolist()) == list(range(CASES[0]["count"]))
    assert [path.name for path in tmp_path.iterdir()] == ["plan-00001.npy"]
