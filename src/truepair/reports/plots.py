"""Plots of lines as inline SVG."""

import math
from itertools import cycle

from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, PercentFormatter

from truepair.reports.data import Plot
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
