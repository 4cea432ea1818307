"""Plots as inline SVG, drawn by matplotlib, which take their colours and their font from the page."""

import html
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import cycle

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, PercentFormatter

from truepair.reports.data import Plot


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
        for line, colour, dashes in zip(plot.lines, cycle(SERIES), cycle(DASHES), strict=False):
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


# Colours that stand for those of the page: matplotlib knows no CSS variables.
INK, MUTED, RULE = "#fe0001", "#fe0002", "#fe0003"


SERIES = [f"#fd000{number}" for number in range(1, 7)]


DASHES = ["solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 2)), (0, (3, 3))]
"""Lines differ by dashes too, so that a print in grey can be read."""


@contextmanager
def page_settings(name: str) -> Iterator[None]:
    """Matplotlib's settings for a drawing of the page.

    Args:
        name: of the drawing, distinct on its page: ids are made of it.
    """
    with mpl.rc_context(_SETTINGS | {"svg.hashsalt": name}):
        yield


def clear_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the page's width with one pair of axes, both without ground; call it within :func:`page_settings`.

    Args:
        height: in inches.
    """
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=MUTED, length=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    return figure, axes


def inline_svg(figure: Figure, description: str) -> str:
    """A figure as an ``svg`` element without size, colour scheme, scripts or links.

    Args:
        figure: what was drawn; call this within :func:`page_settings`.
        description: the same in words.
    """
    text = StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), description)


_WIDTH = 4.7  # inches of 72 units: as wide as a phone, so that text is 10 pixels high there
_HEIGHT = 2.7  # inches
_NAME_HEIGHT = 0.2  # of a line's name, above the plot, where it hides nothing


_CSS = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}


_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


def _inline(document: str, description: str) -> str:
    """An SVG document as an element of a page: without prolog, metadata, namespaces, size, font or style sheet."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=<g) id="[^"]*"', "", svg)  # two plots of a page must not share an id
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = svg.replace("xlink:href", "href")
    opening, _, rest = svg.partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    label = html.escape(description)
    svg = f'<svg role="img" aria-label="{label}" {view.group() if view else ""}>{rest}'
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return svg


def _number(value: float, plot: Plot) -> str:
    """A value as the plot's description gives it."""
    return f"{value:.1%}" if plot.percent else f"{value:.3g}"
