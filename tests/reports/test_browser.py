"""The page in a real browser: it must fit a phone, follow the dark scheme, and ask the network for nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from PIL import Image

from tests.reports.samples import HOSTILE, LONG, metrics, report
from truepair.reports import PictureBook, ReportData, render_report
from truepair.reports.results import result_table

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium found; install the package chromium to run this test"
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
# What the page says of itself, told to the frame around it.
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true });
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter(element =>
    !element.closest(".scroll, .store, .skip, .plot svg") && element.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage({
    scrollWidth: root.scrollWidth, innerWidth, wide: wide.map(element => element.outerHTML.slice(0, 80)),
    scrolling: [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).length,
    requests: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 80)),
    paper: getComputedStyle(document.body).backgroundColor,
    picture: document.querySelector(".picture")?.getBoundingClientRect().width ?? 0,
    title: document.title,
  }, "*");
});
</script>"""
FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<script>addEventListener("message", said => {{ document.body.dataset.probe = JSON.stringify(said.data) }})</script>
<iframe src="page.html" width="{width}" height="800"></iframe>"""


def browse(folder, width, scheme, *arguments):
    """Open the page in a frame, because a headless window cannot be narrower than 500 pixels."""
    (folder / "frame.html").write_text(FRAME.format(width=width))
    colours = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    window = [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},800", colours]
    command = [BROWSER, *FLAGS, *window, *arguments, (folder / "frame.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def probe(folder, source, width, scheme):
    """What a page measures of itself; its policy forbids scripts, so a copy without the policy is asked."""
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    (folder / "page.html").write_text(source.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    dumped = browse(folder, width, scheme, "--dump-dom")
    found = re.search(r'data-probe="([^"]*)"', dumped)
    assert found, "the page did not report back"
    return json.loads(
        found.group(1).replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(("scheme", "text"), [("light", LONG), ("dark", HOSTILE)], ids=["light", "dark"])
def test_fits_its_window_and_asks_for_nothing(tmp_path, width, scheme, text):
    said = probe(tmp_path, render_report(report(text)), width, scheme)
    assert said["innerWidth"] == width
    assert said["scrollWidth"] <= width
    assert said["wide"] == []
    assert [name for name in said["requests"] if not name.startswith("data:")] == []
    assert said["paper"] == {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert said["picture"] >= 40
    assert said["title"] == text.strip()


def test_the_results_of_the_demo_fit_a_window_of_1280_pixels(tmp_path):
    """Two runs, three ways of ranking and two protocols: twelve columns are too wide for one table."""
    measured = metrics(0.5)
    ways = dict.fromkeys(("similarity", "ITM", "similarity + ITM"), measured)
    page = ReportData(
        title="Demo",
        summary="Two runs.",
        results=result_table({"as declared": ways, "false negatives managed": ways}),
    )
    source = render_report(page)
    said = probe(tmp_path, source, 1280, "light")
    assert said["scrolling"] == 0 and said["wide"] == []
    assert source.count('<table class="results">') == 3 and source.count("similarity + ITM") == 1


def test_the_probe_sees_what_must_not_be(tmp_path):
    """The checks above can fail: a request to a closed port and a box that is too wide are both reported."""
    guilty = '<img src="http://127.0.0.1:9/x.png"><p class="picture" style="width: 400px">too wide</p></body>'
    source = render_report(ReportData(title="Guilty", summary="")).replace("</body>", guilty)
    said = probe(tmp_path, source, 360, "light")
    assert said["requests"] == ["http://127.0.0.1:9/x.png"]
    assert said["scrollWidth"] > 360
    assert len(said["wide"]) == 1


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_pictures_are_painted(tmp_path, width, scheme):
    """Under its own policy the page shows its pictures: pure red is in no style."""
    book = PictureBook()
    red = book.add(Image.new("RGB", (72, 72), (255, 0, 0)))
    card = replace(report().suspects[0], picture=red, caption_picture=red)
    data = ReportData(title="Red", summary="Squares.", suspects=[card], pictures=book.uris)
    (tmp_path / "page.html").write_text(render_report(data), encoding="utf-8")
    browse(tmp_path, width, scheme, f"--screenshot={tmp_path / 'page.png'}")
    seen = Image.open(tmp_path / "page.png").convert("RGB").get_flattened_data()
    assert sum(r > 240 and g < 15 and b < 15 for r, g, b in seen) > 2000
