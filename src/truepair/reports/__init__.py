"""The report of runs: one HTML page with figures, curves, examples, suspected false negatives and converted pairs."""

from truepair.reports.cards import PictureBook
from truepair.reports.curves import (
    batch_plots,
    conversion_plots,
    information_plots,
    interpolation_plots,
    loss_plots,
    recall_plots,
    zero_shot_plots,
)
from truepair.reports.data import (
    CaptionAnswer,
    CaptionQuery,
    ConvertedCard,
    ConvertedPairs,
    FactGroup,
    KeyFigure,
    Line,
    PictureAnswer,
    PictureQuery,
    Plot,
    ReportData,
    ResultBlock,
    ResultColumn,
    ResultRow,
    ResultTable,
    SuspectCard,
)
from truepair.reports.facts import machine_facts
from truepair.reports.page import render_report, write_report
from truepair.reports.results import key_figures, result_table

__all__ = [
    "CaptionAnswer",
    "CaptionQuery",
    "ConvertedCard",
    "ConvertedPairs",
    "FactGroup",
    "KeyFigure",
    "Line",
    "PictureAnswer",
    "PictureBook",
    "PictureQuery",
    "Plot",
    "ReportData",
    "ResultBlock",
    "ResultColumn",
    "ResultRow",
    "ResultTable",
    "SuspectCard",
    "batch_plots",
    "conversion_plots",
    "information_plots",
    "interpolation_plots",
    "key_figures",
    "loss_plots",
    "machine_facts",
    "recall_plots",
    "render_report",
    "result_table",
    "write_report",
    "zero_shot_plots",
]
