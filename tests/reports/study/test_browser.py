"""The page of a study in a real browser: it must fit a phone, follow the dark scheme and need no network."""

import pytest

from tests.reports.study.made_up import ARMS, write_study
from tests.reports.test_browser import BROWSER, probe
from truepair.reports.study import report_study

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium found; install the package chromium to run this test"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"))
    page = report_study(folder, title="A study", reference="InfoNCE", ceiling="oracle relabel", arms=ARMS)
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_its_window_and_asks_for_nothing(tmp_path, source, width, scheme):
    said = probe(tmp_path, source, width, scheme)
    assert said["innerWidth"] == width
    assert said["scrollWidth"] <= width
    assert said["wide"] == []
    assert said["requests"] == []
    assert said["paper"] == {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert said["title"] == "A study"
