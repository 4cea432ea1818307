"""Writes the page of a study, ``study.html``, and its tables in Markdown, from what its runs left behind."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from truepair.files import write_text
from truepair.reports.data import FactGroup, KeyFigure
from truepair.reports.facts import machine_facts
from truepair.reports.page import page_environment
from truepair.reports.study.answers import best_method, study_answers
from truepair.reports.study.data import StudyPage
from truepair.reports.study.detectors import answer_detectors, detector_figure, read_detectors
from truepair.reports.study.tables import arm_tables, write_markdown
from truepair.reports.study.view import StudyCurves, StudyView
from truepair.reports.study.words import counted, gain_words, number, share_cell
from truepair.tasks.study.config import QuestionArms
from truepair.tasks.study.table import StudyTable


def report_study(
    folder: Path,
    *,
    title: str,
    reference: str,
    ceiling: str = "",
    command: str = "",
    arms: Sequence[str] = (),
    questions: Mapping[str, QuestionArms] | None = None,
    detectors: Path | None = None,
    left_out: Sequence[str] = (),
) -> Path:
    """Write ``study.html`` and ``table.md`` into the folder of a study; it may be unfinished.

    Reads ``results.parquet``, and ``curves.parquet`` and ``detectors.json`` where they are; see docs/study.md.

    Args:
        folder: of the study.
        title: heading of the page.
        reference: the arm that all are set against.
        ceiling: the arm whose gain over the reference is all there is to recover; empty: there is none.
        command: what reproduces the study.
        arms: their order; empty: that of the results.
        questions: which arms a question is about; empty: the terms in their names tell.
        detectors: another place of ``detectors.json``.
        left_out: what the runs left out, cut, merged or replaced.

    Returns:
        Path of the page.

    Raises:
        DataError: there are no results, or one of the files cannot be read.
        ConfigError: a question is not one of the page's.
    """
    table = StudyTable.read(folder / "results.parquet", arms)
    curves = StudyCurves.read(folder / "curves.parquet")
    view = StudyView(table, curves, reference, ceiling, questions or {})
    found = read_detectors(detectors or folder / "detectors.json")
    page = StudyPage(
        title=title,
        summary=_summary(view),
        key_figures=[*_key_figures(view), *detector_figure(found)],
        answers=[*study_answers(view), answer_detectors(found)],
        tables=arm_tables(view),
        facts=[_study_facts(view, command, [arm for arm in arms if arm not in table.arms], left_out), machine_facts()],
    )
    write_markdown(folder / "table.md", title, page.summary, page.tables, page.facts)
    path = folder / "study.html"
    write_text(path, render_study(page))
    return path


def render_study(page: StudyPage) -> str:
    """The page as one HTML text that needs no network and no script."""
    environment = page_environment()
    figures = {
        answer.key: [
            (drawing.title, Markup(drawing.draw(f"{answer.key}-{number}")))
            for number, drawing in enumerate(answer.drawings)
        ]
        for answer in page.answers
    }
    return environment.get_template("study.html.j2").render(page=page, figures=figures)


def _summary(view: StudyView) -> str:
    """What was run."""
    table = view.table
    runs = {tuple(row[key] for key in ("arm", "data", "data_seed", "seed")) for row in table.rows}
    samples = len({row["data_seed"] for row in table.rows})
    seeds = len({row["seed"] for row in table.rows})
    kinds = counted(len(table.data), "kind of data", "kinds of data")
    most = "" if len(runs) == len({run[:2] for run in runs}) * samples * seeds else "up to "
    ceiling = f"; {view.ceiling} knows every false negative and is the ceiling" if view.ceiling else ""
    return (
        f"{counted(len(table.arms), 'arm')} on {kinds}, {counted(samples, 'sample')} of concepts with "
        f"{most}{counted(seeds, 'seed')} each: {counted(len(runs), 'run')}. All are set against {view.reference}, run "
        f"by run{ceiling}."
    )


def _key_figures(view: StudyView) -> list[KeyFigure]:
    """For each kind of data, what the best method recovers."""
    figures = []
    for data in view.table.data:
        best, gain = best_method(view, data), view.gain(view.ceiling, data)
        if best is None or gain is None:
            continue
        value, small = share_cell(best[1])
        note = f"{best[0]} ({small}); ceiling {gain_words(gain)}"
        figures.append(KeyFigure(label=f"Recovered, {data}", value=value, note=note))
    return figures


def _study_facts(view: StudyView, command: str, missing: Sequence[str], left_out: Sequence[str]) -> FactGroup:
    """Command, time, and arms without any run; a run that two tests look at counts once."""
    keys = ("arm", "data", "data_seed", "seed")
    seconds = {tuple(row[key] for key in keys): row.get("seconds") or 0.0 for row in view.table.rows}
    facts = {"Command": command} if command else {}
    facts |= {
        "Training time": f"{number(sum(seconds.values()) / 60)} minutes, summed over {counted(len(seconds), 'run')}"
    }
    facts |= {"Not run yet": ", ".join(missing)} if missing else {}
    facts |= {"Left out, cut, merged or replaced": "; ".join(left_out)} if left_out else {}
    return FactGroup(title="Study", facts=facts)
