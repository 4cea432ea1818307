from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from tests.sampling.pairs import make_features, run_epochs
from truepair.errors import CheckpointError, ConfigError
from truepair.sampling.batches import hardest_similarity
from truepair.sampling.communities import CommunitiesConfig
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import random_batches
from truepair.sampling.ranks import Ranks


def make_sampler(count: int = 50, batch_size: int = 6, **options: Any) -> GroupedBatchSampler:
    options.setdefault("config", GroupedConfig(queue_size=24, search_space=12))
    return GroupedBatchSampler(count, batch_size, **options)


def flatten(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    space = draw(st.integers(1, 30))
    skip = draw(st.none() | st.integers(0, 4))  # None for a walk
    config = GroupedConfig(
        search_space=space,
        queue_size=space + draw(st.integers(0, 60)),
        group_size=draw(st.none() | st.integers(1, 12)),
        storage=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        communities=None
        if skip is None or skip >= space - 1
        else CommunitiesConfig(skip=skip, neighbours=space // 3 + 1),
    )
    batch_size = draw(st.integers(1, 12))
    drop_last = draw(st.booleans())
    count = draw(st.integers(batch_size if drop_last else 1, 90))
    return {
        "count": count,
        "batch_size": batch_size,
        "config": config,
        "drop_last": drop_last,
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=40)
@given(options(), st.booleans())
def test_every_sample_once_an_epoch(case: dict[str, Any], alike: bool) -> None:
    sampler = GroupedBatchSampler(**case)
    image, text = make_features(case["count"], clusters=3)
    if alike:
        image = text = torch.ones_like(image)
    for batches in run_epochs(sampler, image, text, 3):
        seen = flatten(batches)
        assert len(batches) == len(sampler)
        assert len(set(seen)) == len(seen)
        whole = case["count"] - (case["count"] % case["batch_size"] if case["drop_last"] else 0)
        assert len(seen) == whole
        assert set(seen) <= set(range(case["count"]))


@pytest.mark.parametrize("rest", [0, 1, 11, 12, 13, 24])
def test_any_remainder_of_queue_and_search_space(rest: int) -> None:
    """Where the official sampler dies: remainders of 0, 1 and whole search spaces."""
    count = 48 + rest
    sampler = make_sampler(count, 6, drop_last=False)
    for batches in run_epochs(sampler, *make_features(count), 3):
        assert sorted(flatten(batches)) == list(range(count))


def test_epoch_0_is_random_and_later_ones_are_planned() -> None:
    sampler = make_sampler(48, 6, seed=5)
    first, second, third = run_epochs(sampler, *make_features(48), 3)
    assert first == [batch.tolist() for batch in random_batches(48, 6, seed=5, epoch=0)]
    assert second != third


def test_grouped_batches_are_harder() -> None:
    image, text = make_features(960, dimension=16, clusters=40)
    sampler = make_sampler(960, 16, config=GroupedConfig(queue_size=480, search_space=240))

    def hardness(batches: list[list[int]]) -> float:
        return float(torch.cat([hardest_similarity(image[batch], text[batch]) for batch in batches]).mean())

    random, grouped = map(hardness, run_epochs(sampler, image, text, 2))
    assert grouped > random + 0.1


def test_the_dial_makes_them_easier() -> None:
    image, text = make_features(480, dimension=16, clusters=40)

    def hardness(quantile: float) -> float:
        config = GroupedConfig(queue_size=480, search_space=240, hardness=HardnessConfig(quantile=quantile))
        batches = run_epochs(make_sampler(480, 16, config=config), image, text, 2)[1]
        return float(torch.cat([hardest_similarity(image[batch], text[batch]) for batch in batches]).mean())

    assert hardness(1.0) > hardness(0.95) > hardness(0.7)


def test_a_learned_dial_sees_search_spaces_and_epoch() -> None:
    seen = []

    def dial(image: Tensor, text: Tensor, epoch: int, samples: NDArray[np.int64]) -> Tensor:
        assert image.shape == text.shape
        assert samples.shape == image.shape[:2]
        seen.append((tuple(image.shape[:2]), epoch))
        return torch.full(image.shape[:2], 0.5)

    run_epochs(make_sampler(48, 6, hardness=dial), *make_features(48), 2)
    assert set(seen) == {((2, 12), 1), ((2, 12), 2)}


def test_what_is_dropped_changes_and_comes_back() -> None:
    sampler = make_sampler(53, 10, config=GroupedConfig(queue_size=20, search_space=10))
    image, text = make_features(53)
    dropped = [set(range(53)) - set(flatten(batches)) for batches in run_epochs(sampler, image, text, 30)]
    assert all(len(left) == 3 for left in dropped)
    assert all(not (now & then) for now, then in zip(dropped[1:], dropped[:-1], strict=True))
    assert len(set().union(*dropped)) > 35


def test_known_matches_never_share_a_step() -> None:
    keys = np.repeat(np.arange(40), 3)  # three captions an image
    image, text = make_features(120)
    image = image[torch.from_numpy(keys)]
    pairs = np.array([[0, 7], [50, 100], [119, 3]])
    known = KnownMatches(keys, pairs)
    config = GroupedConfig(queue_size=60, search_space=30)
    sampler = make_sampler(120, 10, config=config, known=known)
    for batches in run_epochs(sampler, image, text, 4):
        assert sampler.clashes == 0
        for batch in batches:
            assert not known.matrix(np.array(batch)).any()
    plain = run_epochs(make_sampler(120, 10, config=config), image, text, 2)[1]
    assert any(known.matrix(np.array(batch)).any() for batch in plain)  # they would have met


def suspect_and_collect(sampler: GroupedBatchSampler, pairs: NDArray[np.int64], image: Tensor, text: Tensor) -> None:
    """A step that learns that some pairs match, if both are in its batch."""
    here = sampler.step_samples(sampler.step)
    sampler.suspect(torch.from_numpy(pairs[np.isin(pairs, here).all(axis=1)]))
    index = torch.from_numpy(here)
    sampler.collect(index, image[index], text[index])


@pytest.mark.parametrize("communities", [None, CommunitiesConfig(skip=0)])
def test_what_a_step_suspects_never_meets_again(communities: CommunitiesConfig | None) -> None:
    image, text = make_features(120, clusters=40)
    cosine = image @ text.T + (image @ text.T).T
    nearest = cosine.fill_diagonal_(-9).topk(3).indices  # pairs that grouping brings together
    pairs = np.stack([np.repeat(np.arange(120), 3), nearest.reshape(-1).numpy()], axis=1)
    truth = KnownMatches(pairs=pairs)
    config = GroupedConfig(queue_size=120, search_space=60, communities=communities)
    sampler = make_sampler(120, 6, config=config)
    told: set[tuple[int, int]] = set()
    for epoch in range(4):
        met = {
            (min(a, b), max(a, b))
            for step in range(sampler.steps)
            for a in sampler.step_samples(step).tolist()
            for b in truth.partners(a).tolist()
            if b in sampler.step_samples(step)
        }
        assert met.isdisjoint(told) and (epoch > 1 or met)
        told |= met
        for _ in range(sampler.steps):
            suspect_and_collect(sampler, pairs, image, text)


@pytest.mark.parametrize("stop", [0, 7, 13, 20, 25])
def test_suspects_outlive_a_stop(stop: int, tmp_path: Path) -> None:
    image, text = make_features(120, clusters=40)
    pairs = np.random.default_rng(0).integers(120, size=(900, 2))
    config = GroupedConfig(queue_size=60, search_space=30)

    def train(sampler: GroupedBatchSampler, steps: int) -> list[list[int]]:
        seen = []
        for _ in range(steps):
            seen.append(sampler.step_samples(sampler.step).tolist())
            suspect_and_collect(sampler, pairs, image, text)
        return seen

    expected = train(make_sampler(120, 10, config=config), 40)
    killed = make_sampler(120, 10, config=config)
    train(killed, stop)
    save_file(killed.state_dict(), tmp_path / "sampler.safetensors")
    resumed = make_sampler(120, 10, config=config)
    resumed.load_state_dict(load_file(tmp_path / "sampler.safetensors"))
    assert train(resumed, 40 - stop) == expected[stop:]
    older = {name: value for name, value in killed.state_dict().items() if not name.startswith("found_")}
    make_sampler(120, 10, config=config).load_state_dict(older)  # what older versions wrote


def test_groups_smaller_than_a_step_do_not_depend_on_it() -> None:
    image, text = make_features(96)
    config = GroupedConfig(queue_size=48, search_space=24, group_size=4)
    sampler = make_sampler(96, 12, config=config)
    run_epochs(sampler, image, text, 1)
    groups = sampler.order.reshape(-1, 4)
    assert hardest_similarity(image[groups[0]], text[groups[0]]).isfinite().all()
    one = make_sampler(96, 4, config=config)
    one.set_epoch(0)
    assert sorted(sampler.order.tolist()) == list(range(96))
    similar = torch.stack([hardest_similarity(image[group], text[group]).mean() for group in groups]).mean()
    mixed = np.random.default_rng(0).permutation(96).reshape(-1, 4)
    assert similar > torch.stack([hardest_similarity(image[group], text[group]).mean() for group in mixed]).mean()


@settings(max_examples=25)
@given(options(), st.integers(0, 10_000), st.booleans())
def test_resume_at_any_step(
    tmp_path_factory: pytest.TempPathFactory, case: dict[str, Any], stop: int, to_file: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    case["plan_folder"] = folder if to_file else None
    image, text = make_features(case["count"])
    whole = GroupedBatchSampler(**case)
    stop %= 3 * len(whole)
    expected = run_epochs(whole, image, text, 4)

    killed = GroupedBatchSampler(**case)
    for _ in range(stop):
        index = torch.tensor(next(iter(killed)))
        killed.collect(index, image[index], text[index])
    save_file(killed.state_dict(), folder / "sampler.safetensors")
    resumed = GroupedBatchSampler(**case)
    resumed.load_state_dict(load_file(folder / "sampler.safetensors"))
    epoch, step = divmod(stop, len(whole))
    assert (resumed.epoch, resumed.step) == (epoch, step)
    assert run_epochs(resumed, image, text, 4 - epoch) == [expected[epoch][step:], *expected[epoch + 1 :]]


def test_states_of_other_runs_are_refused(tmp_path: Path) -> None:
    state = make_sampler(seed=1).state_dict()
    with pytest.raises(CheckpointError, match="has seed 1, this run has 2"):
        make_sampler(seed=2).load_state_dict(state)
    with pytest.raises(CheckpointError, match="has count 50, this run has 51"):
        make_sampler(51, seed=1).load_state_dict(state)
    image, text = make_features(50)
    first = make_sampler(plan_folder=tmp_path)
    run_epochs(first, image, text, 1)
    state = first.state_dict()
    with pytest.raises(CheckpointError, match="give the plan folder"):
        make_sampler().load_state_dict(state)
    with pytest.raises(CheckpointError, match="cannot read the plan"):
        make_sampler(plan_folder=tmp_path / "elsewhere").load_state_dict(state)
    run_epochs(make_sampler(plan_folder=tmp_path), text, image, 1)  # another run in the same folder
    with pytest.raises(CheckpointError, match="is the plan of another run"):
        make_sampler(plan_folder=tmp_path).load_state_dict(state)


def test_plans_are_written_once_an_epoch(tmp_path: Path) -> None:
    sampler = make_sampler(plan_folder=tmp_path)
    run_epochs(sampler, *make_features(50), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan-00001.npy", "plan-00002.npy"]
    assert np.load(tmp_path / "plan-00002.npy").tolist() == sampler.order.tolist()


class Indices(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_do_not_matter(workers: int) -> None:
    image, text = make_features(50)
    expected = run_epochs(make_sampler(), image, text, 3)
    sampler = make_sampler()
    loader: DataLoader[Tensor] = DataLoader(
        Indices(), batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    for batches in expected:
        seen = []
        for index in loader:
            seen.append(index.tolist())
            sampler.collect(index, image[index], text[index])
        assert seen == batches


def test_accelerate_shares_out_the_batches_of_all_ranks() -> None:
    config = GroupedConfig(queue_size=24, search_space=12)
    for drop_last in (True, False):
        every = GroupedBatchSampler(50, 4, config=config, ranks=Ranks(0, 2), all_ranks=True, drop_last=drop_last)
        for rank in range(2):
            own = GroupedBatchSampler(50, 4, config=config, ranks=Ranks(rank, 2), drop_last=drop_last)
            shard = BatchSamplerShard(every, num_processes=2, process_index=rank, even_batches=False)
            assert len(shard) == len(own)
            assert list(shard) == list(own)
            every = GroupedBatchSampler(50, 4, config=config, ranks=Ranks(0, 2), all_ranks=True, drop_last=drop_last)


def test_samples_that_were_not_collected_take_random_places() -> None:
    sampler = make_sampler(48, 6)
    image, text = make_features(48)
    for step, batch in enumerate(sampler):
        index = torch.tensor(batch)
        if step % 2:
            sampler.skip()
        else:
            sampler.collect(index, image[index], text[index])
    assert (sampler.epoch, sampler.step) == (1, 0)
    assert sorted(flatten(list(sampler))) == list(range(48))


def test_a_sample_collected_twice_counts_once() -> None:
    sampler = make_sampler(48, 6)
    image, text = make_features(48)
    for _ in range(8):
        index = torch.tensor([0, 1, 2, 3, 4, 5])  # a loader that returns substitutes
        sampler.collect(index, image[index], text[index])
    assert sorted(flatten(list(sampler))) == list(range(48))


def test_an_epoch_can_end_early() -> None:
    sampler = make_sampler(48, 6)
    image, text = make_features(48)
    index = torch.tensor(next(iter(sampler)))
    sampler.collect(index, image[index], text[index])
    sampler.set_epoch(0)
    assert (sampler.epoch, sampler.step) == (0, 1)
    sampler.set_epoch(1)
    assert (sampler.epoch, sampler.step) == (1, 0)
    assert sorted(flatten(list(sampler))) == list(range(48))
    with pytest.raises(ConfigError, match="is in epoch 1, not 5"):
        sampler.set_epoch(5)


def test_forgotten_collects_do_not_pass_in_silence() -> None:
    sampler = make_sampler(48, 6)
    list(sampler)
    with pytest.raises(ConfigError, match="only 0 of its 8 steps were collected"):
        list(sampler)


def test_wrong_collects_are_refused() -> None:
    sampler = make_sampler(48, 6)
    image, text = make_features(48)
    with pytest.raises(ConfigError, match="got 5 samples at step 0 of epoch 0, which has 6"):
        sampler.collect(torch.arange(5), image[:5], text[:5])
    with pytest.raises(ConfigError, match="dataset index 90 of 48"):
        for _ in range(4):
            sampler.collect(torch.arange(85, 91), image[:6], text[:6])


def test_indices_above_two_to_the_24_stay_exact() -> None:
    count = 2**24 + 128
    sampler = GroupedBatchSampler(count, 4096, config=GroupedConfig(queue_size=4096, search_space=64))
    index = torch.arange(count - 4096, count)
    sampler.collect(index, *make_features(4096))
    assert sorted(sampler.state_dict()["walks"].tolist()) == index.tolist()


def test_too_few_samples_and_wrong_sizes_are_one_line() -> None:
    with pytest.raises(ConfigError, match="5 samples do not fill one batch of 6"):
        make_sampler(5, 6)
    with pytest.raises(ConfigError, match="too few for 4 ranks"):
        make_sampler(3, 6, ranks=Ranks(0, 4), drop_last=False)
    with pytest.raises(ConfigError, match="seed is -1"):
        make_sampler(seed=-1)
    with pytest.raises(ConfigError, match="no process group"):
        sampler = make_sampler(ranks=Ranks(0, 2))
        image, text = make_features(6)
        sampler.collect(torch.arange(6), image, text)


def test_defaults_are_those_of_the_papers() -> None:
    config = GroupedConfig()
    assert (config.queue_size, config.search_space, config.hardness.quantile) == (48_000, 1_920, 1.0)


def test_large_data_are_left_as_they_are() -> None:
    config = GroupedConfig()
    assert config.scaled(1_000_000, 128) == config


@pytest.mark.parametrize(
    ("count", "batch", "space"),
    [(10_000, 128, 1_152), (2_000, 32, 224), (400, 32, 128), (100, 32, 96), (20, 32, 20), (1, 1, 1)],
)
def test_small_data_shrink_the_search_space(count: int, batch: int, space: int) -> None:
    scaled = GroupedConfig().scaled(count, batch)
    assert scaled.search_space == space
    assert scaled.queue_size == count


def test_scaling_keeps_the_rest() -> None:
    config = GroupedConfig(group_size=16, storage="float16")
    scaled = config.scaled(2_000, 64)
    assert (scaled.group_size, scaled.storage, scaled.search_space) == (16, "float16", 240)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.storage is 'int8'"):
        GroupedConfig(storage="int8")
    with pytest.raises(ConfigError, match="queue_size 100 is smaller than"):
        GroupedConfig(queue_size=100)
    with pytest.raises(ConfigError, match=r"sampler\.group_size is 0"):
        GroupedConfig(group_size=0)
