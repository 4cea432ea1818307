"""The report of a run: one HTML page with figures, curves, examples and suspected false negatives."""

from truepair.reports.curves import loss_plots, recall_plots
from truepair.reports.data import (
    CaptionAnswer,
    CaptionQuery,
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
from truepair.reports.machine import machine_facts
from truepair.reports.page import render_report, write_report
from truepair.reports.pictures import PictureBook
from truepair.reports.results import key_figures, result_table

__all__ = [
    "CaptionAnswer",
    "CaptionQuery",
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
    "key_figures",
    "loss_plots",
    "machine_facts",
    "recall_plots",
    "render_report",
    "result_table",
    "write_report",
]
