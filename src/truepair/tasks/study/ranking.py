"""How far the order of arms by naive figures (own pair only) is from their order by figures that know all matches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from truepair.evaluation import Estimate
from truepair.tasks.study.statistics import PairedDifference, common_cells, interval, paired_difference, resampled
from truepair.tasks.study.table import Cell, Figures, StudyTable

AWARE, NAIVE = "retrieval_score", "naive"

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankSwap:
    """Two arms that stand in one order by the known truth and in the other by the own pair only.

    Attributes:
        better: the arm that is better by the truth.
        worse: the other.
        aware: better minus worse by the truth.
        naive: better minus worse by the own pair only.
    """

    better: str
    worse: str
    aware: PairedDifference
    naive: PairedDifference

    @property
    def clear(self) -> bool:
        """Whether both orders are clear of chance."""
        return self.aware.clear and self.naive.clear


@dataclass(frozen=True)
class RankingAgreement:
    """Two rankings of the same arms on one kind of data.

    Attributes:
        aware: arm -> mean of the figure that knows all matches, best first.
        naive: arm -> mean of the own-pair figure, best first.
        correlation: Spearman's, over the arms.
        pairs: number of pairs of arms.
        swaps: pairs in different order, the widest apart by the truth first.
        unseen: pairs that the truth tells apart (its interval excludes zero) and the naive figure does not.
        told: pairs that the truth tells apart.
        cells: that all these arms have.
        left_out: arms that lack cells others have.
    """

    aware: dict[str, float]
    naive: dict[str, float]
    correlation: Estimate
    pairs: int
    swaps: list[RankSwap]
    unseen: int
    told: int
    cells: int
    left_out: list[str]


def ranking_agreement(table: StudyTable, data: str, test: str) -> RankingAgreement | None:
    """Compare the two rankings over cells that all ranked arms have.

    Where arms differ in their cells, so many arms are ranked that arms times cells is most.

    Args:
        table: results of a study.
        data: kind of data.
        test: which test.

    Returns:
        None if fewer than three arms share cells with both figures.
    """
    by_arm = {arm: _both_figures(table, arm, data, test) for arm in table.arms}
    ranked, cells = _largest_block(by_arm)
    if len(ranked) < 3:
        return None
    aware = {arm: {cell: by_arm[arm][cell][0] for cell in cells} for arm in ranked}
    naive = {arm: {cell: by_arm[arm][cell][1] for cell in cells} for arm in ranked}
    by_truth = np.array([[aware[arm][cell] for arm in ranked] for cell in cells])  # [C, A]
    by_own = np.array([[naive[arm][cell] for arm in ranked] for cell in cells])
    drawn = spearman(resampled(by_truth, cells), resampled(by_own, cells))  # [R]
    found = float(spearman(by_truth.mean(axis=0), by_own.mean(axis=0)))
    compared = [_compare(first, second, aware, naive) for first, second in combinations(ranked, 2)]
    swaps = [pair for pair in compared if pair.naive.mean < 0 < pair.aware.mean]
    told = [pair for pair in compared if pair.aware.clear]
    return RankingAgreement(
        aware=_ranked(ranked, by_truth),
        naive=_ranked(ranked, by_own),
        correlation=Estimate(found, *interval(drawn)),
        pairs=len(compared),
        swaps=sorted(swaps, key=lambda swap: -swap.aware.mean),
        unseen=sum(not (pair.naive.clear and pair.naive.mean > 0) for pair in told),
        told=len(told),
        cells=len(cells),
        left_out=[arm for arm in table.arms if arm not in ranked],
    )


def spearman(first: _Array, second: _Array) -> _Array:
    """Spearman's rank correlation along the last axis; ties share their mean rank.

    Args:
        first: values [..., A].
        second: values [..., A].

    Returns:
        Correlations [...]; 0 where one side has only ties.
    """
    from scipy.stats import rankdata  # its spearmanr takes two columns at a time, not a stack of ten thousand

    middle = (first.shape[-1] + 1) / 2
    x, y = (rankdata(values, axis=-1) - middle for values in (first, second))  # [..., A] ranks around zero
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    shared: _Array = (x * y).sum(axis=-1)
    correlation: _Array = np.divide(shared, size, out=np.zeros_like(shared), where=size > 0)
    return correlation


def _both_figures(table: StudyTable, arm: str, data: str, test: str) -> dict[Cell, tuple[float, float]]:
    """Aware and naive figure of the cells that have both."""
    aware, naive = (table.figures(arm, data, test, figure) for figure in (AWARE, NAIVE))
    return {cell: (aware[cell], naive[cell]) for cell in common_cells([aware, naive])}


def _largest_block(by_arm: Mapping[str, Mapping[Cell, object]]) -> tuple[list[str], list[Cell]]:
    """Arms with at least so many cells, and the cells they share, for the number that gives the largest table."""
    blocks: list[tuple[list[str], list[Cell]]] = [([], [])]
    for least in {len(cells) for cells in by_arm.values()}:
        arms = [arm for arm, cells in by_arm.items() if len(cells) >= max(least, 1)]
        blocks.append((arms, common_cells([by_arm[arm] for arm in arms]) if arms else []))
    return max(blocks, key=lambda block: len(block[0]) * len(block[1]))


def _compare(first: str, second: str, aware: Mapping[str, Figures], naive: Mapping[str, Figures]) -> RankSwap:
    """Two arms, the better by the truth first."""
    by_truth = _difference(aware[first], aware[second])
    if by_truth.mean < 0:
        return _compare(second, first, aware, naive)
    return RankSwap(first, second, by_truth, _difference(naive[first], naive[second]))


def _difference(first: Figures, second: Figures) -> PairedDifference:
    found = paired_difference(first, second)
    assert found is not None  # only arms with the same cells are compared
    return found


def _ranked(arms: Sequence[str], values: _Array) -> dict[str, float]:
    """Arms and their means over the cells [C, A], best first."""
    means = dict(zip(arms, values.mean(axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda item: -item[1]))
