"""Question 4: conversion against removal, each place of ECM alone, S-ITC with and without GRIT."""

from collections.abc import Sequence

from truepair.reports.study.data import Answer, TextTable
from truepair.reports.study.gains import gain_plot, gain_sentences, pair_table
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import percent_cell

JUDGED = {
    "conversion_precision": "precision",
    "conversion_recall": "recall",
    "false_negative_rate": "among partners",
}


def answer_mafa(view: StudyView) -> Answer:
    """Gains of the arms with GRIT, ECM and S-ITC, and how well their judge chose."""
    arms = view.arms_of("mafa")
    return Answer(
        key="mafa",
        title="MAFA: conversion, places, S-ITC",
        question=(
            "Is converting false negatives better than removing them, what does each of ECM's three places (ITC, ITM, "
            "MLM) bring alone, and what does S-ITC bring with and without GRIT?"
        ),
        sentences=gain_sentences(view, arms) or ["This study has no arm with GRIT, ECM or S-ITC."],
        drawings=gain_plot(view, arms, "GRIT, ECM and S-ITC"),
        tables=[*pair_table(view, "mafa"), *_judged(view, arms)],
    )


def _judged(view: StudyView, arms: Sequence[str]) -> list[TextTable]:
    """Precision and recall of conversions, where a judge was asked."""
    data = view.table.data
    rows = [
        (arm, [percent_cell(view.mean(arm, kind, figure)) for kind in data for figure in JUDGED])
        for arm in arms
        if view.has(arm, "conversion_precision")
    ]
    columns = ["Arm", *(f"{title}, {kind}" for kind in data for title in JUDGED.values())]
    title = "Pairs converted, and false negatives among the partners of a batch, last epoch"
    return [TextTable(title=title, columns=columns, rows=rows)] if rows else []
