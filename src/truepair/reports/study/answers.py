"""The questions of a study's page, each answered in sentences, figures and tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from truepair.evaluation import Estimate
from truepair.reports.data import Line, Plot
from truepair.reports.plots import SERIES
from truepair.reports.study.data import Chart, LineDrawing, QuestionAnswer, TextTable
from truepair.reports.study.plots import (
    BandPlot,
    HistogramPlot,
    IntervalPlot,
    RankingPlot,
    gain_estimate,
    share_estimate,
)
from truepair.reports.study.view import Band, StudyView
from truepair.reports.study.words import (
    TextCell,
    counted,
    gain_cell,
    gain_words,
    listed,
    number,
    percent_cell,
    plain_cell,
    share_words,
    span,
)
from truepair.tasks.study.config import StudyQuestion
from truepair.tasks.study.ranking import RankingAgreement, ranking_agreement
from truepair.tasks.study.statistics import FEWEST, RecoveredShare


def study_answers(view: StudyView) -> list[QuestionAnswer]:
    """The answer to each question, in the order of the page."""
    answers = [answer_batches, answer_density, answer_srcl, answer_mafa, answer_naive]
    return [answer(view) for answer in answers]


_MOST_LINES = len(SERIES)  # of one figure: the page has as many colours


_BATCH_CURVES = {
    "hardest_is_false": "Hardest negatives that are false",
    "false_negative_rate": "Partners in a batch that are false negatives",
}


def answer_batches(view: StudyView) -> QuestionAnswer:
    """The share of false negatives among the hardest negatives, random batches against grouped ones."""
    arms = [view.reference, *view.arms_of("batches")]
    sentences = [text for data in view.table.data for text in _batch_sentences(view, data, arms)]
    sentences += [text for data in view.table.data for text in _hardness_sentences(view, data)]
    return QuestionAnswer(
        key="batches",
        title="False negatives among the hardest",
        question="How many of the hardest in-batch negatives are false, with random batches and with GRIT's?",
        sentences=sentences or ["This study did not count how many of the hardest negatives are false."],
        drawings=[*_batch_drawings(view, arms[:_MOST_LINES]), *_hardness_drawings(view)],
        tables=_batch_tables(view, arms),
    )


def _batch_sentences(view: StudyView, data: str, arms: Sequence[str]) -> list[str]:
    """The reference and the extreme of the others, in the last epoch."""
    known = {arm: share for arm in arms if (share := view.mean(arm, data, "hardest_is_false")) is not None}
    if view.reference not in known:
        return []
    base = known.pop(view.reference)
    start = f"{data}: in the last epoch {number(base)} % of the hardest negatives of {view.reference} are false"
    if not known:
        return [f"{start}; no arm with grouped batches was run."]
    most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    spread = f", {number(known[least])} % of those of {least}" if least != most else ""
    return [f"{start}, {number(known[most])} % of those of {most}{spread}."]


def _batch_drawings(view: StudyView, arms: Sequence[str]) -> list[Chart]:
    """Both shares by epoch, for each kind of data that logged them."""
    drawings: list[Chart] = []
    for name, title in _BATCH_CURVES.items():
        for data in view.table.data:
            lines = [line for arm in arms for line in view.curves.line(arm, data, name)]
            if name == "false_negative_rate" and lines:
                chance = view.curves.line(view.reference, data, "random_false_negative_rate")
                lines += [Line(name="random batches on average", x=line.x, y=line.y) for line in chance]
            if lines:
                plot = Plot(title=f"{title}, {data}", x_label="epoch", lines=lines, percent=True)
                drawings.append(LineDrawing(plot))
    return drawings


_QUANTILE = "hardness_quantile"


def _hardness_bands(view: StudyView, data: str) -> list[Band]:
    """The quantiles of every arm that learns hardness, whatever it is called."""
    return [band for arm in view.table.arms for band in view.curves.band(arm, data, _QUANTILE)]


def _hardness_sentences(view: StudyView, data: str) -> list[str]:
    """Where learned hardness begins and ends."""
    bands = _hardness_bands(view, data)
    if not bands:
        return []
    moves = [f"{band.name} from {number(band.mean[0], 2)} to {number(band.mean[-1], 2)}" for band in bands]
    return [f"{data}: hardness is learned; its mean quantile goes in {listed(moves)} (1 takes the most similar pair)."]


def _hardness_drawings(view: StudyView) -> list[Chart]:
    """The quantile by epoch, for each kind of data on which an arm learns it, as many to a figure as it has colours."""
    drawings: list[Chart] = []
    for data in view.table.data:
        bands = _hardness_bands(view, data)
        for first in range(0, len(bands), _MOST_LINES):
            more = f", {first // _MOST_LINES + 1}" if len(bands) > _MOST_LINES else ""
            title = f"Learned hardness: mean quantile, and the range of its runs, {data}{more}"
            drawings.append(BandPlot(title=title, x_label="epoch", bands=bands[first : first + _MOST_LINES]))
    return drawings


def _batch_tables(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """The last epoch in numbers."""
    if not view.table.has("hardest_is_false"):
        return []
    data = view.table.data
    rows = [(arm, [percent_cell(view.mean(arm, kind, "hardest_is_false")) for kind in data]) for arm in arms]
    title = "Hardest negatives that are false, last epoch"
    return [TextTable(title=title, columns=["Arm", *data], rows=rows)]


_DENSITY_AIM = 0.6  # of the ceiling's gain


_DENSITY_LIMITS = (-150.0, 200.0)  # per cent shown: where there is little to recover, shares know no bounds


def answer_density(view: StudyView) -> QuestionAnswer:
    """The ceiling's gain by kind of data, and the share of it that each arm reaches; without a ceiling, their gains."""
    sentences = [text for data in view.table.data for text in _density_sentences(view, data)]
    missing = [arm for arm in (view.reference, view.ceiling) if arm and arm not in view.table.arms]
    arms = view.arms_of("density")
    if not view.ceiling:
        sentences = ["No arm knows the truth of the training pairs, so there is no share of a gain to be given."]
        sentences += _gain_sentences(view, arms)
    elif missing:
        sentences = [f"No run of {listed(missing)} is finished, so no share of a gain can be given."]
    elif len(view.table.data) > 1:
        sentences.append(_density_verdict(view))
    return QuestionAnswer(
        key="density",
        title="What false negatives cost",
        question="How much does the reference lose to them as their density grows, and what does each method recover?",
        sentences=sentences,
        drawings=_density_drawings(view) if view.ceiling else _gain_drawings(view, arms, "All arms"),
        tables=_converted_tables(view, [arm for arm in view.methods if arm not in view.arms_of("mafa")]),
    )


def best_method(view: StudyView, data: str) -> tuple[str, RecoveredShare] | None:
    """The arm that recovers most without knowing the truth, and its share."""
    shares = [(arm, share) for arm in view.methods if (share := view.recovered(arm, data)) is not None]
    return max(shares, key=lambda item: item[1].value, default=None)


def _density_sentences(view: StudyView, data: str) -> list[str]:
    """The ceiling's gain on a kind of data, and the best method."""
    gain = view.gain(view.ceiling, data)
    if gain is None:
        return []
    base, top = (view.mean(arm, data, "retrieval_score") or 0.0 for arm in (view.reference, view.ceiling))
    cost = (
        f"{data}: {view.reference} reaches {number(base)} where {view.ceiling} reaches {number(top)}: "
        f"{gain_words(gain)} for knowing its false negatives."
    )
    best = best_method(view, data)
    if best is not None and best[1].value <= 0:
        return [f"{cost} No method wins any of it back."]
    if best is not None:
        return [f"{cost} {best[0]} recovers most of it without knowing the truth, {share_words(best[1])}."]
    return [cost] if gain.clear else [f"{cost} That is not clear of zero, so no share of it can be given."]


def _density_verdict(view: StudyView) -> str:
    """Whether one method reaches the aim on all kinds of data."""
    least: dict[str, float] = {}
    reached, few = [], True
    for arm in view.methods:
        shares = [view.recovered(arm, data) for data in view.table.data]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(shares):
            least[arm] = min(share.value for share in known)
            few = few and min(share.cells for share in known) < FEWEST
            if least[arm] >= _DENSITY_AIM and all(share.clear for share in known):
                reached.append(arm)
    if not least:
        return "No method has a share at every density."
    if few:
        return f"Of fewer than {FEWEST} runs no verdict on the methods is given."
    best, aim = max(least, key=least.__getitem__), number(100 * _DENSITY_AIM, 0)
    if reached:
        return f"At least {aim} % at every density, with an interval clear of zero: {listed(reached)}."
    return (
        f"No method recovers {aim} % at every density with an interval clear of zero; {best} comes "
        f"closest: {number(100 * least[best], 0)} % at its worst."
    )


def _density_drawings(view: StudyView) -> list[Chart]:
    """The gain to be had by kind of data; then the share of it by arm."""
    data = view.table.data
    oracles = [arm for arm in view.table.arms if arm not in (*view.methods, view.reference)]
    gains = {arm: [gain_estimate(view.gain(arm, kind)) for kind in data] for arm in oracles}
    drawings: list[Chart] = []
    if gains:
        title = f"What knowing the truth gains over {view.reference}"
        drawings.append(IntervalPlot(title=title, x_label="points", rows=data, series=gains))
    arms = view.arms_of("density")
    shares = {arm: [view.recovered(arm, kind) for kind in data] for arm in arms}
    shown = sorted((arm for arm in arms if any(shares[arm])), key=lambda arm: -_mean_share(shares[arm]))
    if shown:
        series = {kind: [share_estimate(shares[arm][place]) for arm in shown] for place, kind in enumerate(data)}
        title = f"Share of the gain of {view.ceiling} recovered"
        drawings.append(
            IntervalPlot(
                title=title,
                x_label="per cent",
                rows=shown,
                series=series,
                mark=100 * _DENSITY_AIM,
                limits=_DENSITY_LIMITS,
            )
        )
    return drawings


def _mean_share(shares: list[RecoveredShare | None]) -> float:
    """Mean of the shares that are known."""
    known = [share.value for share in shares if share is not None]
    return sum(known) / len(known)


_WEIGHT_EDGES = [place / 10 for place in range(22)]  # of the logged histogram, whose last bin takes all above


_WEIGHT_LABEL = "weight (the last bin: 2 and more)"


_INFORMATION_CURVES = {
    "mi_negative": "Information with negatives (nats)",
    "mi_positive": "Information with positives (nats)",
}


def answer_srcl(view: StudyView) -> QuestionAnswer:
    """Gains of the SRCL arms, their weights, and the information that features keep of negatives."""
    arms = view.arms_of("srcl")
    sentences = _gain_sentences(view, arms) or ["This study has no SRCL arm."]
    drawings: list[Chart] = []
    if arms:
        drawings += _gain_drawings(view, arms, "SRCL")
        drawings += [*_weight_drawings(view, arms), *_information_drawings(view, arms)]
    return QuestionAnswer(
        key="srcl",
        title="SRCL: seed, refinement, weights",
        question="Does SRCL need a seed model, does refinement help, and what do its weights do to mutual information?",
        sentences=[*sentences, *_information_sentences(view, arms)],
        drawings=drawings,
        tables=[*_pair_tables(view, "srcl"), *_weight_tables(view, arms)],
    )


def _information_sentences(view: StudyView, arms: Sequence[str]) -> list[str]:
    """What was last logged of the information with negatives."""
    sentences = []
    for data in view.table.data:
        base = view.mean(view.reference, data, "mi_negative")
        known = {arm: value for arm in arms if (value := view.mean(arm, data, "mi_negative")) is not None}
        if base is not None and known:
            ends = dict.fromkeys([min(known, key=known.__getitem__), max(known, key=known.__getitem__)])
            extremes = listed([f"{number(known[arm], 2)} ({arm})" for arm in ends])
            sentences.append(
                f"{data}: information with negatives ends at {number(base, 2)} nats with {view.reference}, with SRCL "
                f"{'between' if len(ends) > 1 else 'at'} {extremes}."
            )
    return sentences


def _weight_drawings(view: StudyView, arms: Sequence[str]) -> list[Chart]:
    """Histograms of the weights of negatives in the last epoch."""
    drawings: list[Chart] = []
    for data in view.table.data:
        bins = {arm: shares for arm in arms if (shares := view.curves.bins(arm, data, "srcl_weights"))}
        for part in _parts(list(bins), _MOST_LINES):
            title = f"Weights of negatives, last epoch, {data}"
            series = {arm: bins[arm] for arm in part}
            drawings.append(HistogramPlot(title=title, x_label=_WEIGHT_LABEL, edges=_WEIGHT_EDGES, series=series))
    return drawings


def _information_drawings(view: StudyView, arms: Sequence[str]) -> list[Chart]:
    """Information over training, the reference beside SRCL."""
    drawings: list[Chart] = []
    for name, title in _INFORMATION_CURVES.items():
        for data in view.table.data:
            base = view.curves.line(view.reference, data, name)
            lines = [line for arm in arms for line in view.curves.line(arm, data, name)]
            for part in _parts(lines, _MOST_LINES - len(base)):
                plot = Plot(title=f"{title}, {data}", x_label="epoch", lines=[*base, *part])
                drawings.append(LineDrawing(plot))
    return drawings


def _weight_tables(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """How much was weighed down, and how much of it rightly."""
    columns, rows = ["Arm"], {arm: list[TextCell]() for arm in arms if view.has(arm, "weight_below_07")}
    for data in view.table.data if rows else []:
        columns += [f"below 0.7, {data}", f"false negatives, {data}"]
        for arm, cells in rows.items():
            cells.append(percent_cell(view.mean(arm, data, "weight_below_07")))
            cells.append(plain_cell(view.mean(arm, data, "weight_of_false_negatives")))
    title = "Share of weights below 0.7, and mean weight of false negatives, last epoch"
    return [TextTable(title=title, columns=columns, rows=list(rows.items()))] if rows else []


def answer_mafa(view: StudyView) -> QuestionAnswer:
    """Gains of the arms with GRIT, ECM and S-ITC, and how well their judge chose."""
    arms = view.arms_of("mafa")
    return QuestionAnswer(
        key="mafa",
        title="MAFA: conversion, places, S-ITC",
        question=(
            "Is converting false negatives better than removing them, what does each of ECM's three places (ITC, ITM, "
            "MLM) bring alone, and what does S-ITC bring with and without GRIT?"
        ),
        sentences=_gain_sentences(view, arms) or ["This study has no arm with GRIT, ECM or S-ITC."],
        drawings=_gain_drawings(view, arms, "GRIT, ECM and S-ITC"),
        tables=[*_pair_tables(view, "mafa"), *_converted_tables(view, arms)],
    )


_MOST_SWAPS = 12


def answer_naive(view: StudyView) -> QuestionAnswer:
    """Rank correlation of the two figures, and the arms that swap."""
    asked = {view.reference, view.ceiling, *view.arms_of("naive")}
    ranked = replace(view.table, arms=[arm for arm in view.table.arms if arm in asked])
    agreements = {data: ranking_agreement(ranked, data, view.test) for data in view.table.data}
    known = {data: agreement for data, agreement in agreements.items() if agreement is not None}
    return QuestionAnswer(
        key="naive",
        title="What naive figures hide",
        question="How far do figures that count only the own pair mislead about the ranking of the methods?",
        sentences=[text for data, agreement in known.items() for text in _ranking_sentences(data, agreement)]
        or ["Fewer than three arms have both figures, so there is no ranking to compare."],
        drawings=[_ranking_drawing(data, agreement) for data, agreement in known.items()],
        tables=[_swap_table(data, agreement) for data, agreement in known.items() if agreement.swaps],
    )


def _ranking_sentences(data: str, agreement: RankingAgreement) -> list[str]:
    """The correlation, the swaps, and what is left out."""
    correlation = agreement.correlation
    clear = [swap for swap in agreement.swaps if swap.clear]
    few = agreement.cells < FEWEST
    interval = counted(agreement.cells, "run") if few else span(correlation.low, correlation.high, 2)
    sentences = [
        f"{data}: the rank correlation (Spearman) of {counted(len(agreement.aware), 'arm')} by the two figures is "
        f"{number(correlation.value, 2)} ({interval}). Of {agreement.pairs:,} pairs of "
        f"arms {len(agreement.swaps):,} swap places, {len(clear):,} of them beyond chance on both sides"
        f"{f' (the widest apart by the truth: {clear[0].better} over {clear[0].worse})' if clear else ''}. The truth "
        f"tells {counted(agreement.told, 'pair')} apart; the own pair alone misses {agreement.unseen:,} of these."
    ]
    if agreement.left_out:
        sentences.append(f"Not ranked, because cells are missing: {', '.join(agreement.left_out)}.")
    return sentences


def _ranking_drawing(data: str, agreement: RankingAgreement) -> Chart:
    """The two rankings; arms that swap most clearly stand out."""
    swaps = sorted(agreement.swaps, key=lambda swap: not swap.clear)
    names = list(dict.fromkeys(arm for swap in swaps for arm in (swap.better, swap.worse)))
    return RankingPlot(
        title=f"The two rankings, {data}",
        left="own pair only",
        right="any true match",
        left_order=list(agreement.naive),
        right_order=list(agreement.aware),
        marked=frozenset(names[:_MOST_LINES]),
    )


def _swap_table(data: str, agreement: RankingAgreement) -> TextTable:
    """Pairs of arms in other order, the clear ones first."""
    swaps = sorted(agreement.swaps, key=lambda swap: not swap.clear)
    rows = [
        (f"{swap.better} over {swap.worse}", [gain_cell(swap.aware), gain_cell(swap.naive)])
        for swap in swaps[:_MOST_SWAPS]
    ]
    more = len(swaps) - len(rows)
    note = f"{counted(more, 'further pair')} of arms not shown." if more else ""
    title = f"Arms that swap places, {data}"
    return TextTable(
        title=title, columns=["Better by the truth", "any true match", "own pair only"], rows=rows, note=note
    )


def _gain_sentences(view: StudyView, arms: Sequence[str]) -> list[str]:
    """For each kind of data: how many arms that do not know the truth gain and lose clearly, and the best of them."""
    sentences = []
    for data in view.table.data:
        gains = {arm: gain for arm in view.methods if arm in arms and (gain := view.gain(arm, data)) is not None}
        if not gains:
            continue
        best = max(gains, key=lambda arm: gains[arm].mean)
        if len(gains) == 1:
            sentences.append(f"{data}: {best} against {view.reference}: {gain_words(gains[best])}.")
            continue
        if max(gain.cells for gain in gains.values()) < FEWEST:
            sentences.append(f"{data}: best of {len(gains)} arms is {best}, {gain_words(gains[best])}.")
            continue
        up = sum(gain.clear and gain.mean > 0 for gain in gains.values())
        down = sum(gain.clear and gain.mean < 0 for gain in gains.values())
        sentences.append(
            f"{data}: clear gains over {view.reference} in {up} of {counted(len(gains), 'arm')}, clear losses in "
            f"{down}; best is {best}, {gain_words(gains[best])}."
        )
    if arms and not sentences:
        return [f"None of {listed(arms)} shares a finished run with {view.reference}."]
    return sentences


def _gain_drawings(view: StudyView, arms: Sequence[str], title: str) -> list[IntervalPlot]:
    """Gains of arms over the reference, by kind of data; no figure where none was run."""
    data = view.table.data
    gains = {kind: [view.gain(arm, kind) for arm in arms] for kind in data}
    series: dict[str, Sequence[Estimate | None]] = {
        kind: [gain_estimate(gain) for gain in of_kind] for kind, of_kind in gains.items() if any(of_kind)
    }
    if not series:
        return []
    x_label = f"points more than {view.reference}"
    return [IntervalPlot(title=title, x_label=x_label, rows=arms, series=series)]


def _pair_tables(view: StudyView, question: StudyQuestion) -> list[TextTable]:
    """The pairs of arms that a question compares, cell by cell."""
    data = view.table.data
    rows = []
    for first, second in view.pairs_of(question):
        cells: list[TextCell] = []
        for kind in data:
            gain = view.gain(first, kind, over=second)
            cells.append(gain_cell(gain))
            cells.append(TextCell(f"{gain.better} of {gain.cells}" if gain else ""))
        rows.append((f"{first} instead of {second}", cells))
    if not rows:
        return []
    columns = ["Difference in points", *(text for kind in data for text in (kind, "runs better"))]
    return [TextTable(title="Set against each other", columns=columns, rows=rows)]


_CONVERSION_FIGURES = {
    "conversion_precision": "precision",
    "conversion_recall": "recall",
    "false_negative_rate": "among partners",
}


def _converted_tables(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """Precision and recall of the arms that took undeclared pairs for matches; nothing where none did."""
    data = view.table.data
    rows = [
        (arm, [percent_cell(view.mean(arm, kind, figure)) for kind in data for figure in _CONVERSION_FIGURES])
        for arm in arms
        if view.has(arm, "conversion_precision")
    ]
    columns = ["Arm", *(f"{title}, {kind}" for kind in data for title in _CONVERSION_FIGURES.values())]
    title = "Pairs converted, and false negatives among the partners of a batch, last epoch"
    return [TextTable(title=title, columns=columns, rows=rows)] if rows else []


_Item = TypeVar("_Item")


def _parts(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    """Consecutive parts, as many as one figure has colours for."""
    return [items[start : start + size] for start in range(0, len(items), size)]
