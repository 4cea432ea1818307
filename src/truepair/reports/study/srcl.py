"""Question 3: does SRCL need a seed model, does refinement help, and what do its weights do."""

from collections.abc import Sequence
from typing import TypeVar

from truepair.reports.data import Plot
from truepair.reports.study.batches import MOST_LINES
from truepair.reports.study.data import Answer, Drawing, LineDrawing, TextCell, TextTable
from truepair.reports.study.gains import gain_plot, gain_sentences, pair_table
from truepair.reports.study.plots import HistogramPlot
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import listed, number, percent_cell, plain_cell

EDGES = [place / 10 for place in range(22)]  # of the logged histogram, whose last bin takes all above
WEIGHT_LABEL = "weight (the last bin: 2 and more)"
INFORMATION = {
    "mi_negative": "Information with negatives (nats)",
    "mi_positive": "Information with positives (nats)",
}

Item = TypeVar("Item")


def answer_srcl(view: StudyView) -> Answer:
    """Gains of the SRCL arms, their weights, and the information that features keep of negatives."""
    arms = view.arms_of("srcl")
    sentences = gain_sentences(view, arms) or ["This study has no SRCL arm."]
    found = [*gain_plot(view, arms, "SRCL"), *_weights(view, arms), *_curves(view, arms)] if arms else []
    return Answer(
        key="srcl",
        title="SRCL: seed, refinement, weights",
        question="Does SRCL need a seed model, does refinement help, and what do its weights do to mutual information?",
        sentences=[*sentences, *_information(view, arms)],
        drawings=found,
        tables=[*pair_table(view, "srcl"), *_weight_table(view, arms)],
    )


def _information(view: StudyView, arms: Sequence[str]) -> list[str]:
    """What was last logged of the information with negatives."""
    sentences = []
    for data in view.table.data:
        base = view.mean(view.reference, data, "mi_negative")
        known = {arm: value for arm in arms if (value := view.mean(arm, data, "mi_negative")) is not None}
        if base is not None and known:
            ends = dict.fromkeys([min(known, key=known.__getitem__), max(known, key=known.__getitem__)])
            found = listed([f"{number(known[arm], 2)} ({arm})" for arm in ends])
            sentences.append(
                f"{data}: information with negatives ends at {number(base, 2)} nats with {view.reference}, with SRCL "
                f"{'between' if len(ends) > 1 else 'at'} {found}."
            )
    return sentences


def _weights(view: StudyView, arms: Sequence[str]) -> list[Drawing]:
    """Histograms of the weights of negatives in the last epoch."""
    found: list[Drawing] = []
    for data in view.table.data:
        bins = {arm: shares for arm in arms if (shares := view.curves.bins(arm, data, "srcl_weights"))}
        for part in _parts(list(bins), MOST_LINES):
            title = f"Weights of negatives, last epoch, {data}"
            series = {arm: bins[arm] for arm in part}
            found.append(HistogramPlot(title=title, x_label=WEIGHT_LABEL, edges=EDGES, series=series))
    return found


def _curves(view: StudyView, arms: Sequence[str]) -> list[Drawing]:
    """Information over training, the reference beside SRCL."""
    found: list[Drawing] = []
    for name, title in INFORMATION.items():
        for data in view.table.data:
            base = view.curves.line(view.reference, data, name)
            lines = [line for arm in arms for line in view.curves.line(arm, data, name)]
            for part in _parts(lines, MOST_LINES - len(base)):
                plot = Plot(title=f"{title}, {data}", x_label="epoch", lines=[*base, *part])
                found.append(LineDrawing(plot))
    return found


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive parts, as many as one figure has colours for."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _weight_table(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """How much was weighed down, and how much of it rightly."""
    columns, rows = ["Arm"], {arm: list[TextCell]() for arm in arms if view.has(arm, "weight_below_07")}
    for data in view.table.data if rows else []:
        columns += [f"below 0.7, {data}", f"false negatives, {data}"]
        for arm, cells in rows.items():
            cells.append(percent_cell(view.mean(arm, data, "weight_below_07")))
            cells.append(plain_cell(view.mean(arm, data, "weight_of_false_negatives")))
    title = "Share of weights below 0.7, and mean weight of false negatives, last epoch"
    return [TextTable(title=title, columns=columns, rows=list(rows.items()))] if rows else []
