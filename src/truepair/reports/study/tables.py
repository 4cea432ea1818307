"""The table of all arms, for the page and, in Markdown, for results that are committed."""

from collections.abc import Sequence
from pathlib import Path

from truepair.files import write_text
from truepair.reports.data import FactGroup
from truepair.reports.study.data import TextTable
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import NOTHING, TextCell, gain_cell, number, share_cell
from truepair.tasks.study.ranking import AWARE, NAIVE

ITM_SCORE = "itm_retrieval_score"
"""The score of ranking by ITM alone."""

TEST_TITLES = {"held_out": "held out", "unseen": "unseen concepts"}


def arm_tables(view: StudyView) -> list[TextTable]:
    """One table for each kind of data: level, gain, share recovered, own pair only, other tests, ITM, time."""
    others = [test for test in view.table.tests if test != view.test]
    columns = [
        "Arm",
        "runs",
        "score",
        f"gain over {view.reference}",
        *([f"share of {view.ceiling}"] if view.ceiling else []),
        "gain, own pair only",
        *(f"gain, {TEST_TITLES.get(test, test)}" for test in others),
        *(["score by ITM", "gain by ITM"] if view.table.has(ITM_SCORE) else []),
        "seconds a run",
    ]
    return [
        TextTable(
            title=f"{data}: {TEST_TITLES.get(view.test, view.test)}",
            columns=columns,
            rows=[(arm, _cells(view, arm, data, others)) for arm in view.table.arms if _ran(view, arm, data)],
        )
        for data in view.table.data
    ]


def _ran(view: StudyView, arm: str, data: str) -> bool:
    """Whether an arm has a cell on some data."""
    return bool(view.table.figures(arm, data, view.test, AWARE))


def _cells(view: StudyView, arm: str, data: str, others: Sequence[str]) -> list[TextCell]:
    """An arm's row; the reference gains nothing over itself."""
    base = arm == view.reference
    gains = [view.gain(arm, data), view.gain(arm, data, figure=NAIVE)]
    elsewhere = [view.gain(arm, data, test=test) for test in others]
    own, naive, *further = [NOTHING if base else gain_cell(gain) for gain in [*gains, *elsewhere]]
    shares = [NOTHING if base else share_cell(view.recovered(arm, data))] if view.ceiling else []
    count, score = level(view, arm, data)
    if view.table.has(ITM_SCORE):
        matched = bool(view.table.figures(arm, data, view.test, ITM_SCORE))
        further.append(level(view, arm, data, ITM_SCORE)[1] if matched else NOTHING)
        further.append(gain_cell(view.gain(arm, data, figure=ITM_SCORE)) if matched and not base else NOTHING)
    seconds = view.mean(arm, data, "seconds")
    return [count, score, own, *shares, naive, *further, NOTHING if seconds is None else TextCell(number(seconds))]


def level(view: StudyView, arm: str, data: str, figure: str = AWARE) -> tuple[TextCell, TextCell]:
    """Number of runs, and the mean of a figure with the sample standard deviation."""
    values = list(view.table.figures(arm, data, view.test, figure).values())
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    small = "" if spread is None else f"\N{PLUS-MINUS SIGN} {number(spread)}"
    return TextCell(str(len(values))), TextCell(number(mean), small)


def markdown(table: TextTable) -> str:
    """A table in Markdown, with its title as a heading."""
    lines = [f"## {table.title}", "", _line(table.columns), _line(["---"] * len(table.columns))]
    lines += [
        _line([name, *(f"{text} ({small})" if small else text for text, small in cells)]) for name, cells in table.rows
    ]
    return "\n".join([*lines, *(["", table.note] if table.note else []), ""])


def write_markdown(
    path: Path, title: str, summary: str, tables: Sequence[TextTable], facts: Sequence[FactGroup]
) -> Path:
    """Write tables with what made them: command, machine and time.

    Args:
        path: of the file; replaced if it is there.
        title: heading.
        summary: one sentence.
        tables: of the study.
        facts: shown first, one line each.

    Returns:
        ``path``.

    Raises:
        DataError: the disk refuses.
    """
    known = [f"- {name}: {value}" for group in facts for name, value in group.facts.items()]
    parts = [f"# {title}", "", summary, "", *known, "", *(markdown(table) for table in tables)]
    write_text(path, "\n".join(parts).rstrip() + "\n")
    return path


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table; bars within a cell are escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
