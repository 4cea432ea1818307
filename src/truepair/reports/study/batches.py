"""Question 1: who is among the hardest in-batch negatives."""

from collections.abc import Sequence

from truepair.reports.data import Line, Plot
from truepair.reports.study.data import Answer, Drawing, LineDrawing, TextTable
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import number, percent_cell

MOST_LINES = 6  # the page has as many colours
CURVES = {
    "hardest_is_false": "Hardest negatives that are false",
    "false_negative_rate": "Partners in a batch that are false negatives",
}


def answer_batches(view: StudyView) -> Answer:
    """The share of false negatives among the hardest negatives, random batches against grouped ones."""
    arms = [view.reference, *view.arms_of("batches")]
    sentences = [text for data in view.table.data for text in _sentence(view, data, arms)]
    return Answer(
        key="batches",
        title="False negatives among the hardest",
        question="How many of the hardest in-batch negatives are false, with random batches and with GRIT's?",
        sentences=sentences or ["This study did not count how many of the hardest negatives are false."],
        drawings=_drawings(view, arms[:MOST_LINES]),
        tables=_tables(view, arms),
    )


def _sentence(view: StudyView, data: str, arms: Sequence[str]) -> list[str]:
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


def _drawings(view: StudyView, arms: Sequence[str]) -> list[Drawing]:
    """Both shares by epoch, for each kind of data that logged them."""
    found: list[Drawing] = []
    for name, title in CURVES.items():
        for data in view.table.data:
            lines = [line for arm in arms for line in view.curves.line(arm, data, name)]
            if name == "false_negative_rate" and lines:
                chance = view.curves.line(view.reference, data, "random_false_negative_rate")
                lines += [Line(name="random batches on average", x=line.x, y=line.y) for line in chance]
            if lines:
                plot = Plot(title=f"{title}, {data}", x_label="epoch", lines=lines, percent=True)
                found.append(LineDrawing(plot))
    return found


def _tables(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """The last epoch in numbers."""
    if not view.table.has("hardest_is_false"):
        return []
    data = view.table.data
    rows = [(arm, [percent_cell(view.mean(arm, kind, "hardest_is_false")) for kind in data]) for arm in arms]
    title = "Hardest negatives that are false, last epoch"
    return [TextTable(title=title, columns=["Arm", *data], rows=rows)]
