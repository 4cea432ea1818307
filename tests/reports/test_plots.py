import re
import xml.etree.ElementTree as ElementTree

import pytest

from truepair.reports import Line, Plot
from truepair.reports.plots import describe_plot, draw_plot


def plot(lines=2, percent=True):
    made = [Line(name=f"run {n} <b>&$x^2$", x=[0, 10, 20], y=[0.1 * n, 0.2, 0.3 + 0.1 * n]) for n in range(lines)]
    return Plot(title="R@1", x_label="step", lines=made, percent=percent)


def test_is_one_well_formed_element_with_a_description():
    svg = draw_plot(plot(), "p")
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib.keys() == {"role", "aria-label", "viewBox"}
    assert root.attrib["aria-label"] == describe_plot(plot())
    assert "run 1 <b>&$x^2$" in [text.text for text in root.iter("text")]


def test_takes_colours_and_fonts_from_the_page():
    svg = draw_plot(plot(lines=3), "p")
    assert not re.findall(r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", svg))
    assert {f"var(--series-{n})" for n in (1, 2, 3)} <= set(re.findall(r"var\(--[\w-]+\)", svg))
    assert "var(--series-4)" not in svg
    assert "font-family" not in svg
    assert "<style" not in svg


def test_lines_differ_by_dashes_too():
    root = ElementTree.fromstring(draw_plot(plot(lines=3), "p"))
    dashes = set()
    for path in root.iter("path"):
        style = path.attrib.get("style", "")
        if "var(--series" in style and "stroke-width: 1.8" in style:
            dashes.add(re.search(r"stroke-dasharray: ([^;]*)|$", style).group(1))
    assert len(dashes) == 3


def test_same_data_same_text_and_ids_differ_between_plots():
    assert draw_plot(plot(), "p") == draw_plot(plot(), "p")
    first, second = (set(re.findall(r' id="([^"]*)"', draw_plot(plot(), name))) for name in ("p", "q"))
    assert first
    assert not first & second


def test_one_line_needs_no_legend():
    text = draw_plot(Plot(title="Loss", x_label="step", lines=[Line(name="only", x=[0, 1], y=[2, 1])]), "p")
    assert ">only<" not in text


@pytest.mark.parametrize("percent", [True, False])
@pytest.mark.parametrize("heights", [[0.5625], [0.51, 0.5625], [0.0], [2.0, -0.7], [0.004]])
def test_single_points_are_drawn_whole_at_their_step(heights, percent):
    lines = [Line(name=str(y), x=[8], y=[y]) for y in heights if y >= 0 or not percent]
    root = ElementTree.fromstring(draw_plot(Plot(title="R@1", x_label="step", lines=lines, percent=percent), "p"))
    groups = [group for group in root.iter("g") if any("var(--series" in use.get("style", "") for use in group)]
    markers = [use for group in groups for use in group.iter("use")]
    assert len(markers) == len(lines)
    assert not any("clip-path" in group.attrib for group in groups)
    height = float(root.attrib["viewBox"].split()[3])
    assert all(5 < float(marker.attrib["y"]) < height - 20 for marker in markers)
    texts = [text.text for text in root.iter("text")]
    assert [text for text in texts if text.startswith(("7", "8", "9"))] == ["8"]


def test_description_gives_both_ends():
    shown = plot(lines=1)
    assert describe_plot(shown) == "R@1 by step: run 0 <b>&$x^2$ from 0.0% to 30.0%."


def test_small_rates_can_be_told_apart_on_their_axis():
    line = Line(name="rate", x=[1, 2], y=[0.001, 0.0072])
    text = draw_plot(Plot(title="Rate", x_label="epoch", lines=[line], percent=True), "p")
    ticks = re.findall(r">([\d.]+%)<", text)
    assert len(set(ticks)) == len(ticks) >= 3
    assert ">20%<" in draw_plot(plot(), "p")


def test_names_stand_above_the_plot_and_hide_no_line():
    roots = [ElementTree.fromstring(draw_plot(plot(lines=count), "p")) for count in (1, 4)]
    heights = [float(root.attrib["viewBox"].split()[3]) for root in roots]
    assert heights[1] - heights[0] > 4 * 10  # a line of text is 10 units high
