import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.reports.samples import HOSTILE, LONG, report
from truepair.errors import DataError
from truepair.evaluation import Estimate
from truepair.reports import PictureBook, ReportData, ResultRow, render_report, write_report
from truepair.reports.page import format_figure, format_interval

SECTIONS = ["results", "curves", "examples", "suspects", "converted", "facts"]
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements of a page, and whether they nest properly."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.words = []
        self.feed(text)
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def source():
    return render_report(report())


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_every_section_has_a_heading_and_a_link(page):
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    targets = set(page.attributes("href"))
    assert {f"#{name}" for name in SECTIONS} <= targets
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_empty_sections_are_left_out():
    text = render_report(ReportData(title="Nothing yet", summary="A run without results."))
    page = Page(text)
    assert [tag for tag, _ in page.elements if tag == "section"] == []
    assert "A run without results." in text


@pytest.mark.parametrize(
    "text", [HOSTILE, "{{ 37 * 37 }} {% raw %}", "$x_1^2$ \\frac", LONG, "\u202eevil \u0645\u0631\u062d\u0628\u0627"]
)
def test_texts_are_shown_and_never_run(text):
    source = render_report(report(text))
    page = Page(source)
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == tags["img"] == 0
    assert tags["style"] == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert text in "".join(page.words)
    assert "1369" not in "".join(page.words)


def test_nothing_outside_the_file_is_named(page, source):
    assert "//" not in re.sub(r'"data:[^"]*"', "", source)
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) <= {"#"}
    assert page.attributes("src") == []
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in page.attributes("href"))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_ids_are_unique_and_links_lead_somewhere(page):
    counts = Counter(page.attributes("id"))
    assert max(counts.values()) == 1
    inside = [link[1:] for link in page.attributes("href") if link.startswith("#")]
    assert set(inside) <= set(counts)
    assert set(page.attributes("aria-labelledby")) <= set(counts)


def test_each_picture_is_embedded_once_and_described_everywhere(page, source):
    assert source.count("data:image/webp") == len(report().pictures)
    pictures = [a for tag, a in page.elements if tag == "svg" and a.get("class") == "picture"]
    assert len(pictures) == 5 + 1 + 2 * 60 + 2 * 12
    assert all(a["role"] == "img" and a["aria-label"].strip() for a in pictures)


def test_unused_pictures_stay_out():
    data = replace(report(), plots=[])
    extra = replace(data, pictures={**data.pictures, "spare": "data:image/webp;base64,AAAA"})
    assert "spare" not in render_report(extra)


def test_missing_picture_is_named():
    data = report()
    data.pictures.pop(data.suspects[0].picture)
    with pytest.raises(DataError, match="not in the report's pictures"):
        render_report(data)


def test_marks_are_signs_and_words(source):
    for sign, word in (
        ("●", "own"),
        ("✓", "true"),
        ("≈", "near"),
        ("✕", "wrong"),
        ("?", "not known"),
        ("✕", "not a match"),
    ):
        assert f'<span aria-hidden="true">{sign}</span> {word}' in source


def test_precision_is_stated(page):
    words = " ".join("".join(page.words).split())  # no-break spaces become spaces too
    assert "Precision at 50: 52.0 % (13 of 25 judged)" in words


def words_of(data):
    return " ".join("".join(Page(render_report(data)).words).split())


def test_converted_pairs_are_summed_up():
    data = replace(report("red"), plots=[])
    words = words_of(data)
    assert "1,234 distinct pairs converted in the run “red”" in words
    assert "Precision 90.0 % (900 of 1,000 judged)" in words
    assert "Recall 62.5 % of the false negatives that met in a batch" in words
    assert "12 of them, drawn at random:" in words
    assert "✓ true match epoch 1 judge 80.0 %" in words
    assert "≈ near-match epoch 2 judge 80.1 %" in words


def test_converted_pairs_without_truth_and_of_a_judge_that_found_nothing():
    data = replace(report("red"), plots=[])
    found = data.converted[0]
    blind = replace(found, run="", count=12, judged=0, true=0, recall=None)
    words = words_of(replace(data, converted=[blind]))
    assert "12 distinct pairs converted truth not known All of them:" in words
    assert "Recall" not in words
    nothing = replace(blind, count=0, cards=[])
    assert "0 distinct pairs converted ✓" not in words_of(replace(data, converted=[nothing], suspects=[]))
    assert 'id="converted"' in render_report(replace(data, converted=[nothing]))


def test_converted_pairs_of_several_runs_have_headings():
    data = replace(report("red"), plots=[])
    found = data.converted[0]
    page = Page(render_report(replace(data, converted=[found, replace(found, run="other judge")])))
    assert "other judge" in page.words
    assert [a["id"] for tag, a in page.elements if tag == "section"].count("converted") == 1


def test_a_missing_picture_of_a_converted_pair_is_named():
    data = replace(report(), suspects=[], caption_queries=[], picture_queries=[], plots=[])
    data.pictures.pop(data.converted[0].cards[0].picture)
    with pytest.raises(DataError, match="not in the report's pictures"):
        render_report(data)


def test_the_page_says_whose_suspects_and_examples_it_shows():
    data = replace(report("red"), plots=[], suspects_of="plain", examples_of="managed")
    words = words_of(data)
    assert "ranked by the ITM probability of the model of the run “plain”." in words
    assert "Queries drawn at random; the answers are those of the run “managed”." in words
    words = words_of(replace(data, suspects_of="", examples_of=""))
    assert "ranked by the ITM probability of the model. In training" in words
    assert "Queries drawn at random." in words


def test_suspects_beyond_the_first_are_folded_and_numbered(source):
    assert "Places 49 to 60" in source
    assert '<span class="place">60</span>' in source
    assert "<details>" not in render_report(replace(report(suspects=48), plots=[]))


def test_the_best_truthful_figure_is_marked():
    cells = re.findall(r'<td class="([^"]*)">([^<]*)<', render_report(replace(report(arms=("plain",)), plots=[])))
    best = [value for classes, value in cells if "best" in classes]
    assert best[0] == "50.0\N{NO-BREAK SPACE}%"
    assert len(best) == 2 * 5  # five shares in two directions; medians and chance are equal
    assert not [classes for classes, _ in cells if "best" in classes and "naive" in classes]


@pytest.mark.parametrize(
    ("kind", "cell", "figure", "interval"),
    [
        ("share", Estimate(0.4567, 0.4, 0.5), "45.7\N{NO-BREAK SPACE}%", "40.0\N{EN DASH}50.0"),
        ("share", Estimate(0.0015, 0.0015, 0.0015), "0.15\N{NO-BREAK SPACE}%", ""),
        ("rank", Estimate(4.0, 3.0, 6.525), "4", "3\N{EN DASH}6.5"),
        ("count", Estimate(12345, 12345, 12345), "12,345", ""),
    ],
)
def test_figures_as_text(kind, cell, figure, interval):
    row = ResultRow(metric="x", kind=kind, cells=[cell])
    assert format_figure(cell, row) == figure
    assert format_interval(cell, row) == interval


def test_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "run" / "report.html"
    for title in ("first", "second, and longer"):
        data = ReportData(title=title, summary=title)
        assert write_report(data, path) == path
        assert path.read_text(encoding="utf-8") == render_report(data)
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_two_hundred_suspects_stay_small(tmp_path):
    generator = np.random.default_rng(0)
    book = PictureBook(side=72)
    noise = [Image.fromarray(generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)) for _ in range(400)]
    keys = [book.add(picture) for picture in noise]  # noise is the worst case of any encoder
    data = report(suspects=200)
    cards = [
        replace(card, picture=keys[2 * number], caption_picture=keys[2 * number + 1])
        for number, card in enumerate(data.suspects)
    ]
    path = write_report(replace(data, suspects=cards, pictures=data.pictures | book.uris), tmp_path / "report.html")
    assert path.stat().st_size < 6_000_000


def test_data_is_json():
    data = report()
    again = json.loads(json.dumps(data.as_dict()))
    assert again["suspects"][0]["verdict"] == "true"
    assert again["results"]["columns"][1]["naive"] is True
