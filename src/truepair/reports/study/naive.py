"""Question 5: how far figures of the own pair only mislead about the ranking of the methods."""

from dataclasses import replace

from truepair.reports.study.data import Answer, Drawing, TextTable
from truepair.reports.study.plots import RankingPlot
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import counted, gain_cell, number, span
from truepair.tasks.study.ranking import RankingAgreement, ranking_agreement
from truepair.tasks.study.statistics import FEWEST

MOST_MARKED = 6  # the page has as many colours
MOST_SWAPS = 12


def answer_naive(view: StudyView) -> Answer:
    """Rank correlation of the two figures, and the arms that swap."""
    asked = {view.reference, view.ceiling, *view.arms_of("naive")}
    ranked = replace(view.table, arms=[arm for arm in view.table.arms if arm in asked])
    found = {data: ranking_agreement(ranked, data, view.test) for data in view.table.data}
    known = {data: agreement for data, agreement in found.items() if agreement is not None}
    return Answer(
        key="naive",
        title="What naive figures hide",
        question="How far do figures that count only the own pair mislead about the ranking of the methods?",
        sentences=[text for data, agreement in known.items() for text in _sentences(data, agreement)]
        or ["Fewer than three arms have both figures, so there is no ranking to compare."],
        drawings=[_ranking(data, agreement) for data, agreement in known.items()],
        tables=[_swap_table(data, agreement) for data, agreement in known.items() if agreement.swaps],
    )


def _sentences(data: str, found: RankingAgreement) -> list[str]:
    """The correlation, the swaps, and what is left out."""
    correlation = found.correlation
    clear = [swap for swap in found.swaps if swap.clear]
    few = found.cells < FEWEST
    interval = counted(found.cells, "run") if few else span(correlation.low, correlation.high, 2)
    sentences = [
        f"{data}: the rank correlation (Spearman) of {counted(len(found.aware), 'arm')} by the two figures is "
        f"{number(correlation.value, 2)} ({interval}). Of {found.pairs:,} pairs of "
        f"arms {len(found.swaps):,} swap places, {len(clear):,} of them beyond chance on both sides"
        f"{f' (the widest apart by the truth: {clear[0].better} over {clear[0].worse})' if clear else ''}. The truth "
        f"tells {counted(found.told, 'pair')} apart; the own pair alone misses {found.unseen:,} of these."
    ]
    if found.left_out:
        sentences.append(f"Not ranked, because cells are missing: {', '.join(found.left_out)}.")
    return sentences


def _ranking(data: str, found: RankingAgreement) -> Drawing:
    """The two rankings; arms that swap most clearly stand out."""
    swaps = sorted(found.swaps, key=lambda swap: not swap.clear)
    names = list(dict.fromkeys(arm for swap in swaps for arm in (swap.better, swap.worse)))
    return RankingPlot(
        title=f"The two rankings, {data}",
        left="own pair only",
        right="any true match",
        left_order=list(found.naive),
        right_order=list(found.aware),
        marked=frozenset(names[:MOST_MARKED]),
    )


def _swap_table(data: str, found: RankingAgreement) -> TextTable:
    """Pairs of arms in other order, the clear ones first."""
    swaps = sorted(found.swaps, key=lambda swap: not swap.clear)
    rows = [
        (f"{swap.better} over {swap.worse}", [gain_cell(swap.aware), gain_cell(swap.naive)])
        for swap in swaps[:MOST_SWAPS]
    ]
    more = len(swaps) - len(rows)
    note = f"{counted(more, 'further pair')} of arms not shown." if more else ""
    title = f"Arms that swap places, {data}"
    return TextTable(
        title=title, columns=["Better by the truth", "any true match", "own pair only"], rows=rows, note=note
    )
