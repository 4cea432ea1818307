"""How well arms chose the pairs that they took for matches, where the truth is known."""

from collections.abc import Sequence

from truepair.reports.study.data import TextTable
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import percent_cell

_FIGURES = {
    "conversion_precision": "precision",
    "conversion_recall": "recall",
    "false_negative_rate": "among partners",
}


def converted_table(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """Precision and recall of the arms that took undeclared pairs for matches; nothing where none did."""
    data = view.table.data
    rows = [
        (arm, [percent_cell(view.mean(arm, kind, figure)) for kind in data for figure in _FIGURES])
        for arm in arms
        if view.has(arm, "conversion_precision")
    ]
    columns = ["Arm", *(f"{title}, {kind}" for kind in data for title in _FIGURES.values())]
    title = "Pairs converted, and false negatives among the partners of a batch, last epoch"
    return [TextTable(title=title, columns=columns, rows=rows)] if rows else []
