"""Drawings of matplotlib as inline SVG that takes its colours and its font from the page."""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that stand for those of the page: matplotlib knows no CSS variables.
INK, MUTED, RULE = "#fe0001", "#fe0002", "#fe0003"

SERIES = [f"#fd000{number}" for number in range(1, 7)]

WIDTH = 4.7  # inches of 72 units: as wide as a phone, so that text is 10 pixels high there

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
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
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
