"""The page of a model that was fine-tuned on questions or statements about images: its figures and its curves."""

from pathlib import Path

from truepair.engine.logs.log import read_log
from truepair.reports.curves import loss_plots, task_plots
from truepair.reports.data import FactGroup, KeyFigure, ReportData
from truepair.reports.facts import machine_facts
from truepair.reports.page import write_report
from truepair.tasks.downstream import FigureTable


def report_downstream(table: FigureTable | None, run_folder: Path, *, command: str, title: str) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Args:
        table: its figures on the test data; the first row of figures heads the page. None without test data.
        run_folder: of the run.
        command: what reproduces it.
        title: heading of the page.

    Returns:
        The page.
    """
    log = read_log(run_folder / "log.jsonl")
    figures: list[KeyFigure] = []
    facts = [FactGroup(title="Run", facts={"Command": command})]
    if table is not None:
        what = table.columns[1:]
        figures = [KeyFigure(label=name, value=value) for name, value in zip(what, table.rows[0][1:], strict=True)]
        rows = {row[0]: ", ".join(f"{name} {v}" for name, v in zip(what, row[1:], strict=True)) for row in table.rows}
        facts.insert(0, FactGroup(title=table.title, facts=rows))
    page = ReportData(
        title=title,
        summary="A model was fine-tuned." if table is None else f"{table.title}.",
        key_figures=figures,
        plots=[*task_plots(log), *loss_plots({"run": log})],
        facts=[*facts, machine_facts()],
    )
    return write_report(page, run_folder / "report.html")
