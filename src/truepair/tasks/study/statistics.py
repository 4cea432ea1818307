"""Paired differences between arms of a study, and the share of a ceiling's gain, with cluster-bootstrap intervals.

Cells that were trained on the same concepts are alike, so they are no independent draws: the bootstrap draws samples of
concepts with replacement, then seeds within each (Davison and Hinkley, Bootstrap Methods, section 3.8). All arms are
resampled alike, so that differences of arms stay paired. The interval goes from the 2.5 % to the 97.5 % point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from truepair.evaluation.bootstrap import percentile_interval, two_stage_weights
from truepair.tasks.study.table import Cell, Figures

RESAMPLES = 10_000

FEWEST = 5  # cells that an interval is given for: of fewer, a bootstrap mostly says how few they are

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """What one arm has more than another, over the cells that both have, in the figure's unit.

    Attributes:
        mean: over the cells.
        spread: sample standard deviation over the cells; None for a single one.
        low: 2.5 % point of the bootstrap.
        high: 97.5 % point.
        cells: how many both have.
        better: in how many the first arm has more.
    """

    mean: float
    spread: float | None
    low: float
    high: float
    cells: int
    better: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero; fewer than five cells tell nothing."""
        return self.cells >= FEWEST and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class RecoveredShare:
    """Share of the ceiling's gain over the reference that an arm reaches: 1 is all of it.

    Attributes:
        value: mean gain of the arm over mean gain of the ceiling.
        low: 2.5 % point of the bootstrap.
        high: 97.5 % point.
        cells: how many arm, reference and ceiling have.
    """

    value: float
    low: float
    high: float
    cells: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero; fewer than five cells tell nothing."""
        return self.cells >= FEWEST and (self.low > 0 or self.high < 0)


def paired_difference(first: Figures, second: Figures) -> PairedDifference | None:
    """Difference of two arms, paired by concepts and seed.

    Args:
        first: a figure of the arm's cells.
        second: of the arm it is set against.

    Returns:
        None where they have no cell in common.
    """
    cells = common_cells([first, second])
    if not cells:
        return None
    gain = _column(first, cells) - _column(second, cells)  # [C]
    low, high = interval(resampled(gain[:, None], cells)[:, 0])
    spread = float(gain.std(ddof=1)) if len(cells) > 1 else None
    return PairedDifference(float(gain.mean()), spread, low, high, len(cells), int((gain > 0).sum()))


def recovered_share(arm: Figures, reference: Figures, ceiling: Figures) -> RecoveredShare | None:
    """Share of the ceiling's gain that an arm reaches; both gains are resampled together.

    Args:
        arm: a figure of the arm's cells.
        reference: of the reference's.
        ceiling: of the ceiling's.

    Returns:
        None where the three have no cell in common, or where the ceiling's own gain is not clear of zero.
    """
    cells = common_cells([arm, reference, ceiling])
    if not cells:
        return None
    base = _column(reference, cells)
    gains = np.stack([_column(arm, cells) - base, _column(ceiling, cells) - base], axis=1)  # [C, 2]
    means = resampled(gains, cells)  # [R, 2]
    if interval(means[:, 1])[0] <= 0:
        return None
    endless = np.copysign(np.inf, means[:, 0])  # the few resamples in which there is nothing to recover
    shares = np.divide(means[:, 0], means[:, 1], out=endless, where=means[:, 1] > 0)
    value, gain = gains.mean(axis=0)
    return RecoveredShare(float(value / gain), *interval(shares), len(cells))


def common_cells(arms: Sequence[Mapping[Cell, object]]) -> list[Cell]:
    """Cells that all arms have, in order."""
    return sorted(set.intersection(*(set(figures) for figures in arms)))


def resampled(values: _Array, cells: Sequence[Cell]) -> _Array:
    """Means of resampled cells.

    Args:
        values: one row for each cell [C, K].
        cells: the clusters are their data seeds.

    Returns:
        Means [R, K]. The same cells are always resampled alike.
    """
    return _weights(tuple(cell.data_seed for cell in cells)) @ values


def interval(values: _Array) -> tuple[float, float]:
    """The 95 % interval of resampled values [R]: values that occurred, since a share may be infinite."""
    low, high = percentile_interval(values, "inverted_cdf")
    return float(low), float(high)


@lru_cache(maxsize=32)
def _weights(clusters: tuple[int, ...]) -> _Array:
    """How much each cell weighs in each resample [R, C]; the same for all figures of the same cells."""
    return two_stage_weights(clusters, RESAMPLES, seed=0)


def _column(figures: Figures, cells: Sequence[Cell]) -> _Array:
    """Values of some cells, in their order [C]."""
    return np.array([figures[cell] for cell in cells])
