"""What the page of a study shows, as plain typed data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from truepair.reports.data import FactGroup, KeyFigure, Plot
from truepair.reports.plots import draw_plot
from truepair.reports.study.words import TextCell


class Chart(Protocol):
    """A figure of the page."""

    @property
    def title(self) -> str:
        """What it shows."""
        ...

    def draw(self, name: str) -> str:
        """The figure as inline SVG; ``name`` is distinct on the page."""
        ...


@dataclass(frozen=True)
class LineDrawing:
    """A plot of lines.

    Attributes:
        plot: the lines.
    """

    plot: Plot

    @property
    def title(self) -> str:
        """What it shows."""
        return self.plot.title

    def draw(self, name: str) -> str:
        """The figure as inline SVG."""
        return draw_plot(self.plot, name)


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table.

    Attributes:
        title: its caption.
        columns: headings, the first over the rows' names.
        rows: a name and one cell for each further column.
        note: what a reader must know of it; may be empty.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[TextCell]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """What a study says to one question.

    Attributes:
        key: of the section.
        title: short heading.
        question: as the study asks it.
        sentences: the answer in words.
        drawings: figures.
        tables: tables.
    """

    key: str
    title: str
    question: str
    sentences: Sequence[str]
    drawings: Sequence[Chart] = ()
    tables: Sequence[TextTable] = ()


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """All of the page.

    Attributes:
        title: heading.
        summary: one sentence on what was run.
        key_figures: numbers for the top.
        answers: one for each question.
        tables: all arms, one table for each kind of data.
        facts: command, machine, time, versions.
    """

    title: str
    summary: str
    key_figures: Sequence[KeyFigure]
    answers: Sequence[QuestionAnswer]
    tables: Sequence[TextTable]
    facts: Sequence[FactGroup]
