"""Gains over the reference and between two arms: figures, tables and words that several questions use."""

from collections.abc import Sequence

from truepair.evaluation import Estimate
from truepair.reports.study.data import TextCell, TextTable
from truepair.reports.study.plots import IntervalPlot, gain_estimate
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import counted, gain_cell, gain_words, listed
from truepair.tasks.study.questions import Question
from truepair.tasks.study.statistics import FEWEST


def gain_plot(view: StudyView, arms: Sequence[str], title: str) -> list[IntervalPlot]:
    """Gains of arms over the reference, by kind of data; no figure where none was run."""
    data = view.table.data
    gains = {kind: [view.gain(arm, kind) for arm in arms] for kind in data}
    series: dict[str, Sequence[Estimate | None]] = {
        kind: [gain_estimate(gain) for gain in found] for kind, found in gains.items() if any(found)
    }
    if not series:
        return []
    x_label = f"points more than {view.reference}"
    return [IntervalPlot(title=title, x_label=x_label, rows=arms, series=series)]


def gain_sentences(view: StudyView, arms: Sequence[str]) -> list[str]:
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


def pair_table(view: StudyView, question: Question) -> list[TextTable]:
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
