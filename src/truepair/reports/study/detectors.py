"""Question 6: detectors of false negatives against human judgements, from a file beside the results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truepair.errors import DataError
from truepair.evaluation import Estimate
from truepair.reports.data import KeyFigure
from truepair.reports.study.data import QuestionAnswer, TextTable
from truepair.reports.study.plots import IntervalPlot
from truepair.reports.study.words import TextCell, number, span

_PRECISION_AIM = 0.70  # average precision

SHOWN_RECALLS = ("0.1", "0.25", "0.5")

_FORM = (
    'give {"data": ..., "pairs": ..., "matches": ..., "detectors": [{"name", "auc", "average_precision", '
    '"precision_at_recall": {"0.1", "0.25", "0.5"}}]}'
)


def read_detectors(path: Path) -> Mapping[str, Any] | None:
    """Read ``detectors.json``; None where there is no such file.

    Raises:
        DataError: the file is not of the form that docs/study.md gives.
    """
    if not path.exists():
        return None
    try:
        comparison: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for detector in comparison["detectors"]:
            _row(detector)
        f"{comparison['data']} {comparison['pairs']:,} {comparison['matches']:,}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"detectors cannot be read from {path} ({error!r}); {_FORM}") from None
    return comparison


def answer_detectors(comparison: Mapping[str, Any] | None) -> QuestionAnswer:
    """How well detectors find the pairs that people took for matches."""
    sentences, drawings, tables = ["This study has no detectors that were compared with human judgements."], [], []
    if comparison is not None and comparison["detectors"]:
        best = max(comparison["detectors"], key=lambda detector: detector["average_precision"])
        reached = "reaches" if best["average_precision"] >= _PRECISION_AIM else "misses"
        sentences = [
            f"{comparison['data']}: {comparison['pairs']:,} judged pairs, {comparison['matches']:,} of them matches. "
            f"Best is {best['name']} with an average precision of {number(best['average_precision'], 3)}, which "
            f"{reached} the aim of {_PRECISION_AIM:.2f}."
        ]
        drawings = [_plot(comparison)]
        tables = [_table(comparison)]
    return QuestionAnswer(
        key="detectors",
        title="Detectors against people",
        question="How well do the detectors find the pairs that people took for matches?",
        sentences=sentences,
        drawings=drawings,
        tables=tables,
    )


def detector_figure(comparison: Mapping[str, Any] | None) -> list[KeyFigure]:
    """The best average precision, for the top of the page."""
    if comparison is None or not comparison["detectors"]:
        return []
    best = max(comparison["detectors"], key=lambda detector: detector["average_precision"])
    value = number(best["average_precision"], 3)
    return [KeyFigure(label="Detector, average precision", value=value, note=f"{best['name']}; {comparison['data']}")]


def _plot(comparison: Mapping[str, Any]) -> IntervalPlot:
    """Average precision by detector."""
    points = [_average_precision(detector) for detector in comparison["detectors"]]
    return IntervalPlot(
        title="Average precision of detectors",
        x_label="average precision",
        rows=[detector["name"] for detector in comparison["detectors"]],
        series={"average precision": points},
        mark=_PRECISION_AIM,
    )


def _table(comparison: Mapping[str, Any]) -> TextTable:
    columns = ["Detector", "AUC", "average precision", *(f"precision at recall {recall}" for recall in SHOWN_RECALLS)]
    rows = [(detector["name"], _row(detector)) for detector in comparison["detectors"]]
    title = f"Detectors, {comparison['data']}"
    command = comparison.get("command", "")
    return TextTable(title=title, columns=columns, rows=rows, note=f"Made by: {command}" if command else "")


def _row(detector: Mapping[str, Any]) -> list[TextCell]:
    """Figures of one detector."""
    precision = _average_precision(detector)
    small = span(precision.low, precision.high, 3) if precision.low < precision.high else ""
    at_recall = [detector["precision_at_recall"][recall] for recall in SHOWN_RECALLS]
    shown = [TextCell(number(float(figure), 3)) for figure in (detector["auc"], precision.value, *at_recall)]
    shown[1] = TextCell(shown[1].text, small)
    return shown


def _average_precision(detector: Mapping[str, Any]) -> Estimate:
    """With its interval, where the file has one."""
    value = float(detector["average_precision"])
    low, high = detector.get("average_precision_interval", (value, value))
    return Estimate(value, float(low), float(high))
