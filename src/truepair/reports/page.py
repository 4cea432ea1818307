"""Writes a report as one HTML file that needs no network and no script."""

from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from truepair.errors import DataError
from truepair.evaluation import Estimate
from truepair.files import write_text
from truepair.reports.data import ReportData, ResultBlock, ResultColumn, ResultRow, ResultTable
from truepair.reports.plots import draw_plot
from truepair.reports.results import percent


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
        results=[(part, _spans(part.columns), _best_cells(part)) for part in _parts(data.results)],
        in_sight=SUSPECTS_IN_SIGHT,
    )


def page_environment() -> Environment:
    """Where the templates of pages are found, and how they are read: escaped, and strict about what is missing."""
    return Environment(
        loader=PackageLoader("truepair.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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


SUSPECTS_IN_SIGHT = 48


@dataclass(frozen=True)
class _Span:
    """A heading over neighbouring columns.

    Attributes:
        title: its text.
        width: number of columns.
    """

    title: str
    width: int


_MOST_COLUMNS = 6  # of a table that fits a window of 1280 pixels


def _parts(results: ResultTable | None) -> list[ResultTable]:
    """The table of results, or one for each way of ranking where it would be too wide."""
    if results is None or len(results.columns) <= _MOST_COLUMNS:
        return [] if results is None else [results]
    parts = []
    for way in dict.fromkeys(column.way for column in results.columns):
        chosen = [number for number, column in enumerate(results.columns) if column.way == way]
        blocks = [
            ResultBlock(
                title=block.title,
                rows=[replace(row, cells=[row.cells[number] for number in chosen]) for row in block.rows],
            )
            for block in results.blocks
        ]
        parts.append(ResultTable(columns=[results.columns[number] for number in chosen], blocks=blocks))
    return parts


def _spans(columns: list[ResultColumn]) -> list[list[_Span]]:
    """Heading rows over the columns: ways of ranking, then arms (if there are several)."""
    ways: list[tuple[str, ...]] = [(column.way,) for column in columns]
    arms: list[tuple[str, ...]] = [(column.way, column.arm) for column in columns]
    several = len({column.arm for column in columns}) > 1
    return [_neighbours(keys) for keys in ((ways, arms) if several else (ways,))]


def _neighbours(keys: list[tuple[str, ...]]) -> list[_Span]:
    """Neighbouring equal keys as spans titled with the last part of the key."""
    spans: list[_Span] = []
    for number, key in enumerate(keys):
        if number and key == keys[number - 1]:
            spans[-1] = _Span(spans[-1].title, spans[-1].width + 1)
        else:
            spans.append(_Span(key[-1], 1))
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
