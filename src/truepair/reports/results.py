"""The table of results and the key figures, from retrieval metrics."""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Literal

from truepair.evaluation import DirectionMetrics, Estimate, RetrievalMetrics, SuspectPrecision
from truepair.reports.data import KeyFigure, ResultBlock, ResultColumn, ResultRow, ResultTable

_Kind = Literal["share", "rank", "count"]


def result_table(arms: Mapping[str, Mapping[str, RetrievalMetrics]]) -> ResultTable:
    """Lay out metrics as rows by direction and columns by way of ranking, arm and protocol.

    The way that uses the most of the model comes first, so that its arms stand side by side where a reader looks first.
    Where both protocols say the same, as on data of which no further match is known, there is one column of both.

    Args:
        arms: name of each training run -> name of each way of ranking -> its metrics.
    """
    names = reversed(dict.fromkeys(way for ways in arms.values() for way in ways))
    flat = [(arm, way, ways[way]) for way in names for arm, ways in arms.items() if way in ways]
    protocols = (False,) if all(metrics.protocols_agree for _, _, metrics in flat) else (False, True)
    columns = [ResultColumn(arm=arm, way=way, naive=naive) for arm, way, _ in flat for naive in protocols]
    i2t = [metrics.naive_i2t if naive else metrics.i2t for _, _, metrics in flat for naive in protocols]
    t2i = [metrics.naive_t2i if naive else metrics.t2i for _, _, metrics in flat for naive in protocols]
    blocks = [
        ResultBlock(title="Image to text", rows=_rows(i2t)),
        ResultBlock(title="Text to image", rows=_rows(t2i)),
    ]
    return ResultTable(columns=columns, blocks=blocks)


def _rows(tables: Sequence[DirectionMetrics]) -> list[ResultRow]:
    """One row for each metric, one cell for each column."""

    def row(metric: str, kind: _Kind, cells: list[Estimate]) -> ResultRow:
        """A row of the table."""
        return ResultRow(metric=metric, kind=kind, cells=cells)

    return [
        row("R@1", "share", [table.recall_at_1 for table in tables]),
        row("R@5", "share", [table.recall_at_5 for table in tables]),
        row("R@10", "share", [table.recall_at_10 for table in tables]),
        row("mAP@R", "share", [table.map_at_r for table in tables]),
        row("R-Precision", "share", [table.r_precision for table in tables]),
        row("Median rank", "rank", [table.median_rank for table in tables]),
        row("R@1 by chance", "share", [_exact(table.chance_recall_at_1) for table in tables]),
        row("Queries", "count", [_exact(table.queries) for table in tables]),
    ]


def _exact(value: float) -> Estimate:
    """A figure that is known, not estimated."""
    return Estimate(value, value, value)


def key_figures(
    metrics: Mapping[str, RetrievalMetrics],
    precision: Sequence[SuspectPrecision] = (),
    conversions: Mapping[str, Sized] | None = None,
    *,
    suspects_by: str = "ITM",
) -> list[KeyFigure]:
    """The numbers for the top of the page.

    Args:
        metrics: name of each run -> the metrics of its best way; the last run is put forward, beside the others.
        precision: of the suspects; the first one judged is shown.
        conversions: name of each run with a judge -> the pairs it converted.
        suspects_by: what ranks the suspects.

    Returns:
        R@1 both ways, mAP@R, the precision of the first suspects, and how many pairs were converted.
    """
    figures = _retrieval_figures(metrics) if metrics else []
    for first in precision:
        if first.value is not None:
            note = f"of the false negatives suspected by {suspects_by}, {first.true} of {first.judged} judged are true"
            figures.append(KeyFigure(label=f"Precision at {first.depth}", value=percent(first.value), note=note))
            break
    for run, converted in (conversions or {}).items():
        note = f"undeclared pairs that became positives{_of_run(run, metrics)}"
        figures.append(KeyFigure(label="Converted pairs", value=f"{len(converted):,}", note=note))
    return figures


def _retrieval_figures(metrics: Mapping[str, RetrievalMetrics]) -> list[KeyFigure]:
    """Figures of the last run, with those of the others in their notes."""
    run, best = list(metrics.items())[-1]
    chance = percent(max(best.i2t.chance_recall_at_1, best.t2i.chance_recall_at_1), 2)
    shown: list[tuple[str, str, Callable[[RetrievalMetrics], float]]] = [
        ("Image to text R@1", "any true caption counts", lambda measured: measured.i2t.recall_at_1.value),
        ("Text to image R@1", "any true picture counts", lambda measured: measured.t2i.recall_at_1.value),
        ("mAP@R", f"mean of both ways; chance R@1 is {chance}", lambda measured: measured.mean_map_at_r),
    ]
    figures = []
    for label, note, value in shown:
        others = [f"{percent(value(measured))} {name}" for name, measured in list(metrics.items())[:-1]]
        parts = [run, *others, note] if others else [note]
        figures.append(KeyFigure(label=label, value=percent(value(best)), note="; ".join(parts)))
    return figures


def _of_run(run: str, runs: Sized) -> str:
    """The name of a run, where there are several."""
    return f" in the run \N{LEFT DOUBLE QUOTATION MARK}{run}\N{RIGHT DOUBLE QUOTATION MARK}" if len(runs) > 1 else ""


def percent(share: float, digits: int = 1) -> str:
    """A share between 0 and 1 in per cent."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
