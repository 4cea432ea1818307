"""Writes a report as one HTML file that needs no network and no script."""

import math
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, PercentFormatter

from truepair.errors import DataError
from truepair.evaluation import Estimate
from truepair.files import write_text
from truepair.reports.data import Plot, ReportData, ResultColumn, ResultRow, ResultTable
from truepair.reports.results import percent
from truepair.reports.svg import INK, MUTED, RULE, SERIES, clear_figure, inline_svg, page_settings

# Lines differ by dashes too, so that a print in grey can be read.
_DASHES = ["solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 2)), (0, (3, 3))]

_HEIGHT = 2.7  # inches

_NAME_HEIGHT = 0.2  # of a line's name, above the plot, where it hides nothing


def draw_plot(plot: Plot, name: str) -> str:
    """Draw a plot.

    Args:
        plot: what to draw.
        name: of the plot, distinct on its page; the same name and data give the same text.

    Returns:
        An ``svg`` element without size, colour scheme, scripts or links.
    """
    with page_settings(name):
        named = len(plot.lines) > 1
        figure, axes = clear_figure(_HEIGHT + _NAME_HEIGHT * len(plot.lines) * named)
        drawn = []
        for line, colour, dashes in zip(plot.lines, cycle(SERIES), cycle(_DASHES), strict=False):
            drawn += axes.plot(line.x, line.y, color=colour, linestyle=dashes, linewidth=1.8, clip_on=False)
            axes.plot(line.x[-1], line.y[-1], "o", color=colour, markersize=4.5, clip_on=False)
        axes.set_xlabel(plot.x_label, color=MUTED)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        places = {place for line in plot.lines for place in line.x}
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True) if len(places) > 1 else FixedLocator([*places]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if plot.percent:
            highest = max(max(line.y) for line in plot.lines)
            axes.set_ylim(0, 1.05 * highest or None)  # what matplotlib adds to a single value shrinks with the zero
            decimals = max(0, math.ceil(-math.log10(axes.get_ylim()[1])) - 1)  # rates are far below 1 %
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
        if named:
            names = [line.name for line in plot.lines]
            figure.legend(drawn, names, loc="outside upper left", frameon=False, labelcolor=INK, labelspacing=0.3)
        return inline_svg(figure, describe_plot(plot))


def describe_plot(plot: Plot) -> str:
    """What a plot shows, in words: where each line starts and ends."""
    parts = [f"{line.name} from {_number(line.y[0], plot)} to {_number(line.y[-1], plot)}" for line in plot.lines]
    return f"{plot.title} by {plot.x_label}: {'; '.join(parts)}."


def _number(value: float, plot: Plot) -> str:
    """A value as the plot's description gives it."""
    return f"{value:.1%}" if plot.percent else f"{value:.3g}"


SUSPECTS_IN_SIGHT = 48


@dataclass(frozen=True)
class Span:
    """A heading over neighbouring columns.

    Attributes:
        title: its text.
        width: number of columns.
    """

    title: str
    width: int


def write_report(data: ReportData, path: Path) -> Path:
    """Write the page; its folder is created, and a file of that name replaced only once the new one is complete.

    Args:
        data: all of the page.
        path: of the HTML file.

    Returns:
        ``path``.

    Raises:
        DataError: if a picture is missing from ``data.pictures``.
    """
    write_text(path, render_report(data))
    return path


def page_environment() -> Environment:
    """Where the templates of pages are found, and how they are read: escaped, and strict about what is missing."""
    return Environment(
        loader=PackageLoader("truepair.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_report(data: ReportData) -> str:
    """The page as text.

    Raises:
        DataError: if a picture is missing from ``data.pictures``.
    """
    shown = _shown_pictures(data)
    missing = [key for key in shown if key not in data.pictures]
    if missing:
        raise DataError(f"picture {missing[0]!r} is shown but not in the report's pictures; add it to the picture book")
    environment = page_environment()
    environment.filters |= {"percent": percent, "figure": format_figure, "interval": format_interval}
    return environment.get_template("report.html.j2").render(
        data=data,
        pictures={key: data.pictures[key] for key in shown},
        plots=[(plot, Markup(draw_plot(plot, f"plot-{number}"))) for number, plot in enumerate(data.plots)],
        spans=_spans(data.results.columns) if data.results else [],
        best=_best_cells(data.results) if data.results else set(),
        in_sight=SUSPECTS_IN_SIGHT,
    )


def format_figure(cell: Estimate, row: ResultRow) -> str:
    """A figure of the table of results as text."""
    if row.kind == "share":
        return percent(cell.value, 2 if cell.value < 0.01 else 1)
    return f"{cell.value:,.10g}"


def format_interval(cell: Estimate, row: ResultRow) -> str:
    """The 95 % interval of a figure as text; empty where there is none."""
    if cell.low == cell.high:
        return ""
    if row.kind == "share":
        return f"{100 * cell.low:.1f}\N{EN DASH}{100 * cell.high:.1f}"
    return f"{round(cell.low, 1):g}\N{EN DASH}{round(cell.high, 1):g}"


def _spans(columns: list[ResultColumn]) -> list[list[Span]]:
    """Heading rows over the columns: ways of ranking, then arms (if there are several)."""
    ways: list[tuple[str, ...]] = [(column.way,) for column in columns]
    arms: list[tuple[str, ...]] = [(column.way, column.arm) for column in columns]
    several = len({column.arm for column in columns}) > 1
    return [_runs(keys) for keys in ((ways, arms) if several else (ways,))]


def _runs(keys: list[tuple[str, ...]]) -> list[Span]:
    """Neighbouring equal keys as spans titled with the last part of the key."""
    spans: list[Span] = []
    for number, key in enumerate(keys):
        if number and key == keys[number - 1]:
            spans[-1] = Span(spans[-1].title, spans[-1].width + 1)
        else:
            spans.append(Span(key[-1], 1))
    return spans


def _best_cells(results: ResultTable) -> set[tuple[int, int, int]]:
    """(block, row, column) of the best truth-aware figure of each row that compares several."""
    truthful = [number for number, column in enumerate(results.columns) if not column.naive]
    best = set()
    for block_number, block in enumerate(results.blocks):
        for row_number, row in enumerate(block.rows):
            values = {column: row.cells[column].value for column in truthful}
            if row.kind == "count" or len(set(values.values())) < 2:
                continue
            winner = min(values.values()) if row.kind == "rank" else max(values.values())
            best |= {(block_number, row_number, column) for column, value in values.items() if value == winner}
    return best


def _shown_pictures(data: ReportData) -> list[str]:
    """Keys of the pictures the page shows, each once, in order of appearance."""
    keys = [answer.picture for query in data.caption_queries for answer in query.answers]
    keys += [query.picture for query in data.picture_queries]
    keys += [key for card in data.suspects for key in (card.picture, card.caption_picture)]
    cards = [card for found in data.converted for card in found.cards]
    keys += [key for card in cards for key in (card.picture, card.caption_picture)]
    return list(dict.fromkeys(keys))
