import pytest

from truepair.errors import ConfigError
from truepair.sampling.grouped import GroupedConfig


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
