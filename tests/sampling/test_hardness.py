import numpy as np
import pytest
import torch

from truepair.errors import ConfigError
from truepair.sampling.hardness import HardnessConfig, HardnessSchedule

NOTHING = torch.empty(0, 0, 0)
NONE = np.empty((0, 0), np.int64)


def quantiles(config: HardnessConfig | None, epochs: int) -> list[float]:
    schedule = HardnessSchedule(config)
    return [schedule(NOTHING, NOTHING, epoch, NONE) for epoch in range(epochs)]


def test_the_default_is_grit() -> None:
    assert quantiles(None, 3) == [1.0, 1.0, 1.0]


def test_a_fixed_dial_stays() -> None:
    assert quantiles(HardnessConfig(quantile=0.8), 4) == [0.8] * 4


def test_a_line_begins_with_the_first_grouped_epoch_and_ends_on_time() -> None:
    config = HardnessConfig(quantile=1.0, final_quantile=0.5, over_epochs=4)
    assert quantiles(config, 8) == [1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hardness\.quantile is 1\.5"):
        HardnessConfig(quantile=1.5)
    with pytest.raises(ConfigError, match=r"hardness\.final_quantile is -1"):
        HardnessConfig(final_quantile=-1)
    with pytest.raises(ConfigError, match=r"hardness\.over_epochs is 0"):
        HardnessConfig(over_epochs=0)
