from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.sampling.pairs import make_features
from truepair.errors import ConfigError
from truepair.sampling.batches import hardest_similarity
from truepair.sampling.grouped import GroupedConfig
from truepair.sampling.stream import GroupedStream


class Features:
    """Looks features up by number, and remembers how many samples it was asked for at a time."""

    def __init__(self, count: int, **options: Any) -> None:
        self.image, self.text = make_features(count, **options)
        self.asked: list[int] = []

    def __call__(self, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.asked.append(len(samples))
        return self.image[list(samples)], self.text[list(samples)]


@settings(max_examples=50)
@given(st.integers(0, 120), st.integers(1, 9), st.integers(1, 20), st.integers(0, 40), st.booleans())
def test_every_sample_once(count: int, batch_size: int, space: int, more: int, drop_last: bool) -> None:
    config = GroupedConfig(search_space=space, queue_size=max(space, batch_size) + more)
    features = Features(max(count, 1))
    stream = GroupedStream(range(count), features, batch_size, config=config, drop_last=drop_last)
    batches = list(stream)
    seen = [sample for batch in batches for sample in batch]
    assert len(set(seen)) == len(seen) == (count - count % batch_size if drop_last else count)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert sum(features.asked) == count  # once each, also those that wait for the next window
    assert max(features.asked, default=0) <= batch_size
    assert list(stream) == batches  # the same again, for a stream that can be read again


def test_it_never_holds_more_than_a_window() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read % 50

    stream = GroupedStream(endless(), Features(50), 8, config=GroupedConfig(search_space=16, queue_size=48))
    for number, _ in zip(range(1, 40), stream, strict=False):
        assert read <= number * 8 + 48


def test_batches_are_harder_than_those_of_the_stream() -> None:
    features = Features(960, dimension=16, clusters=40)

    def hardness(batches: list[list[int]]) -> float:
        return float(
            torch.cat([hardest_similarity(features.image[batch], features.text[batch]) for batch in batches]).mean()
        )

    config = GroupedConfig(search_space=240, queue_size=480)
    grouped = list(GroupedStream(range(960), features, 16, config=config))
    assert hardness(grouped) > hardness(torch.arange(960).view(-1, 16).tolist()) + 0.1
    later = GroupedStream(range(960), features, 16, config=config, epoch=1)
    assert list(later) != grouped


def test_keys_are_kept_out_of_one_batch() -> None:
    features = Features(120)
    features.image[:] = features.image[torch.arange(120) // 3]
    config = GroupedConfig(search_space=30, queue_size=60)
    stream = GroupedStream(range(120), features, 10, config=config, keys=lambda sample: (sample // 3, -1))
    for batch in stream:
        assert len({sample // 3 for sample in batch}) == len(batch)


def test_it_feeds_a_loader() -> None:
    stream = GroupedStream(range(30), Features(30), 4, config=GroupedConfig(search_space=8, queue_size=16))
    loader = torch.utils.data.DataLoader(stream, batch_size=None)
    assert list(loader) == list(stream)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="a window of 8 holds no batch of 9"):
        GroupedStream(range(30), Features(30), 9, config=GroupedConfig(search_space=8, queue_size=8))
    with pytest.raises(ConfigError, match="give at least 1 and 0"):
        GroupedStream(range(30), Features(30), 0)
