"""Drawings of a study: intervals, rankings side by side, bands over training, histograms."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from truepair.evaluation import Estimate
from truepair.reports.plots import DASHES, INK, MUTED, RULE, SERIES, clear_figure, inline_svg, page_settings
from truepair.reports.study.view import Band
from truepair.reports.study.words import number
from truepair.tasks.study.statistics import FEWEST, PairedDifference, RecoveredShare

_MARKERS = "osD^vP"  # series differ by shape too

_NAME_WIDTH = 24  # characters

_LINE, _MARGIN, _LEGEND = 0.12, 0.62, 0.2  # inches: a series of a row, axis and its label, a name above the plot

_NAME, _MORE, _HEAD = 0.21, 0.13, 0.5  # a name of one line, a further line, the headings of a ranking


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """Figures with their intervals, one row for each thing compared.

    Attributes:
        title: what is plotted.
        x_label: horizontal axis, with its unit.
        rows: names, the first on top.
        series: name -> one figure a row; None where there is none.
        mark: a value that is aimed at; None if there is none.
        limits: what lies beyond is drawn as an arrow at the edge; None: everything is shown.
    """

    title: str
    x_label: str
    rows: Sequence[str]
    series: Mapping[str, Sequence[Estimate | None]]
    mark: float | None = None
    limits: tuple[float, float] | None = None

    def draw(self, name: str) -> str:
        """The figure as inline SVG; points with whiskers, rows from top to bottom, a line at zero."""
        named = len(self.series) > 1
        names = [fill(row, _NAME_WIDTH) for row in self.rows]
        step = max(_name_height(names), len(self.series) * _LINE)
        with page_settings(name):
            height = _MARGIN + step * len(self.rows) + _LEGEND * len(self.series) * named
            figure, axes = clear_figure(height)
            axes.axvline(0, color=MUTED, linewidth=0.8)
            if self.mark is not None:
                axes.axvline(self.mark, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            drawn = [self._draw_series(axes, place) for place in range(len(self.series))]
            axes.set_ylim(len(self.rows) - 0.5, -0.5)
            if self.limits is not None:
                low, high = axes.get_xlim()
                axes.set_xlim(max(low, self.limits[0]), min(high, self.limits[1]))
            axes.set_yticks(range(len(names)), names, color=INK, fontsize=9, linespacing=1.1)
            axes.set_xlabel(self.x_label, color=MUTED)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="x", color=RULE, linewidth=0.8)
            if named:
                titles = list(self.series)
                figure.legend(drawn, titles, loc="outside upper left", frameon=False, labelcolor=INK, labelspacing=0.3)
            return inline_svg(figure, self.description())

    def _draw_series(self, axes: Axes, place: int) -> Line2D:
        """Points of one series, set apart from the others' within each row."""
        points = list(self.series.values())[place]
        shift = (place - (len(self.series) - 1) / 2) * 0.7 / len(self.series)
        found = [(row + shift, point) for row, point in enumerate(points) if point is not None]
        colour = SERIES[place % len(SERIES)]
        for y, point in found:
            axes.plot([point.low, point.high], [y, y], color=colour, linewidth=1.6)
        low, high = self.limits or (-math.inf, math.inf)
        for y, point in found:
            if not low <= point.value <= high:
                edge, arrow = (low, "<") if point.value < low else (high, ">")
                axes.plot(edge, y, arrow, color=colour, markersize=6, clip_on=False)
        shown = [(point.value, y) for y, point in found if low <= point.value <= high]
        marker = _MARKERS[place % len(_MARKERS)]
        return axes.plot([x for x, _ in shown], [y for _, y in shown], marker, color=colour, markersize=5)[0]

    def description(self) -> str:
        """All figures in words."""
        parts = [
            f"{row}{', ' + series if len(self.series) > 1 else ''} {number(point.value)}"
            for place, row in enumerate(self.rows)
            for series, points in self.series.items()
            if (point := points[place]) is not None
        ]
        return f"{self.title}, {self.x_label}: {'; '.join(parts)}."


@dataclass(frozen=True, kw_only=True)
class RankingPlot:
    """Two rankings of the same things side by side, joined by lines.

    Attributes:
        title: what is plotted.
        left: heading of the left ranking.
        right: of the right one.
        left_order: names, best first.
        right_order: the same names, best first.
        marked: names whose lines stand out.
    """

    title: str
    left: str
    right: str
    left_order: Sequence[str]
    right_order: Sequence[str]
    marked: frozenset[str] = frozenset()

    def draw(self, name: str) -> str:
        """The figure as inline SVG."""
        count = len(self.left_order)
        names = {item: fill(item, _NAME_WIDTH) for item in self.left_order}
        with page_settings(name):
            figure, axes = clear_figure(_HEAD + _name_height(names.values()) * count)
            colours = cycle(zip(SERIES, DASHES, strict=True))
            for place, item in enumerate(self.left_order):
                ends = [place, self.right_order.index(item)]
                marked = item in self.marked
                colour, dashes = next(colours) if marked else (MUTED, "solid")
                axes.plot([0, 1], ends, color=colour, linestyle=dashes, linewidth=1.8 if marked else 0.8)
            axes.set_ylim(count - 0.5, -0.5)
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            left = [f"{names[item]} {place}" for place, item in enumerate(self.left_order, 1)]
            axes.set_yticks(range(count), left, color=INK, fontsize=9, linespacing=1.1)
            right = axes.secondary_yaxis("right")
            right.patch.set_visible(False)
            right.spines["right"].set_visible(False)
            right.tick_params(colors=MUTED, length=0)
            places = [f"{place} {names[item]}" for place, item in enumerate(self.right_order, 1)]
            right.set_yticks(range(count), places, color=INK, fontsize=9, linespacing=1.1)
            axes.text(0, -0.9, self.left, ha="right", va="bottom", color=MUTED, fontsize=9)
            axes.text(1, -0.9, self.right, ha="left", va="bottom", color=MUTED, fontsize=9)
            return inline_svg(figure, self.description())

    def description(self) -> str:
        """Both rankings in words."""
        return f"{self.title}. {self.left}: {', '.join(self.left_order)}. {self.right}: {', '.join(self.right_order)}."


@dataclass(frozen=True, kw_only=True)
class BandPlot:
    """Figures over training, each with the band in which its runs lie.

    Attributes:
        title: what is plotted.
        x_label: horizontal axis.
        bands: one for each thing compared.
    """

    title: str
    x_label: str
    bands: Sequence[Band]

    def draw(self, name: str) -> str:
        """The figure as inline SVG."""
        with page_settings(name):
            figure, axes = clear_figure(2.7 + _LEGEND * len(self.bands))
            drawn = []
            for band, colour, dashes in zip(self.bands, cycle(SERIES), cycle(DASHES), strict=False):
                axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
                drawn += axes.plot(band.x, band.mean, color=colour, linestyle=dashes, linewidth=1.8)
                axes.plot(band.x[-1], band.mean[-1], "o", color=colour, markersize=4.5)
            axes.set_xlabel(self.x_label, color=MUTED)
            axes.grid(axis="y", color=RULE, linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            names = [band.name for band in self.bands]
            figure.legend(drawn, names, loc="outside upper left", frameon=False, labelcolor=INK, labelspacing=0.3)
            return inline_svg(figure, self.description())

    def description(self) -> str:
        """Where each begins and ends, in words."""
        parts = [
            f"{band.name} from {number(band.mean[0], 2)} to {number(band.mean[-1], 2)} "
            f"(runs {number(band.low[-1], 2)} to {number(band.high[-1], 2)})"
            for band in self.bands
        ]
        return f"{self.title} by {self.x_label}: {'; '.join(parts)}."


@dataclass(frozen=True, kw_only=True)
class HistogramPlot:
    """Shares of values by bin, one outline for each thing compared.

    Attributes:
        title: what is plotted.
        x_label: horizontal axis.
        edges: of the bins, one more than bins.
        series: name -> shares in per cent, one a bin.
    """

    title: str
    x_label: str
    edges: Sequence[float]
    series: Mapping[str, Sequence[float]]

    def draw(self, name: str) -> str:
        """The figure as inline SVG."""
        named = len(self.series) > 1
        with page_settings(name):
            figure, axes = clear_figure(2.7 + _LEGEND * len(self.series) * named)
            styles = zip(self.series.values(), cycle(SERIES), cycle(DASHES), strict=False)
            drawn = [
                axes.stairs(shares, self.edges, color=colour, linestyle=dashes, linewidth=1.8)
                for shares, colour, dashes in styles
            ]
            axes.set_xlabel(self.x_label, color=MUTED)
            axes.set_ylabel("per cent", color=MUTED)
            axes.grid(axis="y", color=RULE, linewidth=0.8)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if named:
                names = list(self.series)
                figure.legend(drawn, names, loc="outside upper left", frameon=False, labelcolor=INK, labelspacing=0.3)
            return inline_svg(figure, self.description())

    def description(self) -> str:
        """Where most values lie, in words."""
        parts = []
        for name, shares in self.series.items():
            top = max(range(len(shares)), key=shares.__getitem__)
            where = f"{self.edges[top]:g} and {self.edges[top + 1]:g}"
            parts.append(f"{name} most between {where} ({number(shares[top], 0)} per cent)")
        return f"{self.title} by {self.x_label}: {'; '.join(parts)}."


def gain_estimate(gain: PairedDifference | None) -> Estimate | None:
    """A paired difference to be plotted; few runs have no whiskers."""
    if gain is None:
        return None
    ends = (gain.mean, gain.mean) if gain.cells < FEWEST else (gain.low, gain.high)
    return Estimate(gain.mean, *ends)


def share_estimate(share: RecoveredShare | None) -> Estimate | None:
    """A share to be plotted in per cent; few runs have no whiskers."""
    if share is None:
        return None
    ends = (share.value, share.value) if share.cells < FEWEST else (share.low, share.high)
    return Estimate(100 * share.value, 100 * ends[0], 100 * ends[1])


def _name_height(names: Iterable[str]) -> float:
    """Inches between rows, so that names of several lines do not touch."""
    return _NAME + _MORE * max(name.count("\n") for name in names)
