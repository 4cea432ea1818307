import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from truepair.evaluation import Estimate
from truepair.reports.study.plots import (
    BandPlot,
    HistogramPlot,
    IntervalPlot,
    RankingPlot,
    gain_estimate,
    share_estimate,
)
from truepair.reports.study.view import Band
from truepair.tasks.study.statistics import PairedDifference, RecoveredShare

ROWS = ["InfoNCE <b>$x^2$", "a method with a name that is far too long for one line", "GRIT"]
INTERVALS = IntervalPlot(
    title="Gains",
    x_label="points",
    rows=ROWS,
    series={
        "2 drawings": [Estimate(1.0, 0.5, 1.5), None, Estimate(-4.0, -5.0, -3.0)],
        "7 drawings": [Estimate(2.0, 1.5, 2.5), Estimate(3.0, 1.0, 5.0), Estimate(0.0, -1.0, 1.0)],
    },
    mark=2.5,
)
RANKING = RankingPlot(
    title="Two rankings",
    left="usual protocol",
    right="any true match",
    left_order=ROWS,
    right_order=[ROWS[2], ROWS[0], ROWS[1]],
    marked=frozenset([ROWS[2]]),
)
HISTOGRAM = HistogramPlot(
    title="Weights",
    x_label="weight",
    edges=[0, 0.5, 1.0, 1.5],
    series={"a": [20.0, 70.0, 10.0], "b": [90.0, 10.0, 0.0]},
)
BANDS = BandPlot(
    title="Quantile",
    x_label="epoch",
    bands=[
        Band("FALCON", [2.0, 3.0, 4.0], [0.8, 0.6, 0.5], [0.9, 0.7, 0.6], [0.95, 0.8, 0.7]),
        Band("per space <b>", [2.0], [0.4], [0.4], [0.4]),
    ],
)
ALL = [INTERVALS, RANKING, HISTOGRAM, BANDS]


@pytest.mark.parametrize("plot", ALL, ids=lambda plot: plot.title)
def test_is_one_well_formed_element_in_the_colours_of_the_page(plot):
    svg = plot.draw("p")
    root = ElementTree.fromstring(svg)
    assert root.attrib.keys() == {"role", "aria-label", "viewBox"}
    assert root.attrib["aria-label"] == plot.description()
    assert float(root.attrib["viewBox"].split()[2]) == pytest.approx(4.7 * 72)
    assert not re.findall(r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", svg))
    assert plot.draw("p") == svg
    ids = [set(re.findall(r' id="([^"]*)"', plot.draw(name))) for name in ("p", "q")]
    assert not ids[0] & ids[1]


def words(plot):
    return [text.text for text in ElementTree.fromstring(plot.draw("p")).iter("text")]


def test_names_are_shown_as_they_are_and_long_ones_take_more_lines():
    for plot in (INTERVALS, RANKING):
        shown = words(plot)
        assert any("InfoNCE <b>$x^2$" in text for text in shown)
        assert any("a method with a name" in text for text in shown)
        assert max(len(text) for text in shown) <= 30


def positions(plot, colour):
    """Horizontal centres of a series' points."""
    uses = ElementTree.fromstring(plot.draw("p")).iter("use")
    return [float(use.attrib["x"]) for use in uses if colour in use.attrib.get("style", "")]


def test_points_stand_where_their_values_are():
    first, second = (positions(INTERVALS, f"var(--series-{place})") for place in (1, 2))
    legend = 1  # each name has a point of its own
    assert len(first) == 2 + legend
    assert len(second) == 3 + legend
    unit = (first[0] - first[1]) / 5  # from -4 to 1
    assert second[0] - first[0] == pytest.approx(unit, rel=1e-3)
    assert second[1] - second[2] == pytest.approx(3 * unit, rel=1e-3)


def test_taller_with_more_rows():
    short = IntervalPlot(title="", x_label="", rows=ROWS[:1], series={"a": [Estimate(1, 0, 2)]})
    long = IntervalPlot(title="", x_label="", rows=ROWS[:1] * 20, series={"a": [Estimate(1, 0, 2)] * 20})
    heights = [float(ElementTree.fromstring(plot.draw("p")).attrib["viewBox"].split()[3]) for plot in (short, long)]
    assert heights[1] - heights[0] > 19 * 14  # text is 9 units high


def test_what_lies_beyond_the_limits_is_an_arrow_at_the_edge():
    points = [Estimate(10, 5, 15), Estimate(900, 700, 1000), Estimate(-800, -900, -700)]
    plot = IntervalPlot(title="", x_label="", rows=["a", "b", "c"], series={"s": points}, limits=(-150, 200))
    root = ElementTree.fromstring(plot.draw("p"))
    ticks = [float(text.text.replace("\N{MINUS SIGN}", "-")) for text in root.iter("text") if text.text not in "abc"]
    assert min(ticks) >= -150
    assert max(ticks) <= 200
    middle, *edges = sorted(positions(plot, "var(--series-1)"), key=lambda x: abs(x - 225))
    width = float(root.attrib["viewBox"].split()[2])
    assert len(edges) == 2
    assert all(0 <= x <= width for x in edges)
    assert min(edges) < middle < max(edges)


def test_few_runs_have_no_whiskers():
    gain = PairedDifference(2.0, 1.0, 1.0, 3.0, 4, 4)
    assert gain_estimate(gain) == Estimate(2.0, 2.0, 2.0)
    assert gain_estimate(replace(gain, cells=5)) == Estimate(2.0, 1.0, 3.0)
    assert share_estimate(RecoveredShare(0.5, 0.4, 0.6, 4)) == Estimate(50.0, 50.0, 50.0)
    assert share_estimate(RecoveredShare(0.5, 0.4, 0.6, 5)) == Estimate(50.0, 40.0, 60.0)
    assert gain_estimate(None) is share_estimate(None) is None


def test_only_what_is_marked_stands_out():
    svg = RANKING.draw("p")
    assert svg.count("var(--series-1)") >= 1
    assert "var(--series-2)" not in svg
    numbered = [text for text in words(RANKING) if re.match(r"\d ", text) or re.search(r" \d$", text)]
    assert "GRIT 3" in numbered
    assert "1 GRIT" in numbered


def test_descriptions_hold_the_figures():
    assert "GRIT, 2 drawings \N{MINUS SIGN}4.0" in INTERVALS.description()
    assert INTERVALS.description().count("a method with") == 1
    assert RANKING.description().endswith(f"any true match: GRIT, {ROWS[0]}, {ROWS[1]}.")
    assert HISTOGRAM.description() == (
        "Weights by weight: a most between 0.5 and 1 (70 per cent); b most between 0 and 0.5 (90 per cent)."
    )


def test_a_band_spans_the_runs_of_an_arm():
    assert BANDS.description() == (
        "Quantile by epoch: FALCON from 0.90 to 0.60 (runs 0.50 to 0.70); per space <b> from 0.40 to 0.40 "
        "(runs 0.40 to 0.40)."
    )
    assert {"FALCON", "per space <b>"} <= set(words(BANDS))
    assert BANDS.draw("p").count("fill-opacity: 0.2") == 2
