"""The page of an examination: in a browser, and with hostile captions."""

import json
from pathlib import Path

import pytest

from tests.reports.samples import HOSTILE
from tests.reports.test_browser import BROWSER, probe
from tests.tasks.doctor.faulty import write_faulty
from truepair.cli.main import main


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    path, _ = write_faulty(folder)
    hostile = {
        "image": "good4.png",
        "captions": [f"<script>alert(1)</script> {HOSTILE} " + "long" * 60],
        "split": "val",
    }
    path.write_text(path.read_text() + "\n" + json.dumps(hostile))
    main(["doctor", str(path), "--page", str(folder / "doctor.html")])
    return (folder / "doctor.html").read_text(encoding="utf-8")


def test_captions_are_escaped_and_nothing_is_fetched(page: str) -> None:
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "http://" not in page and "https://" not in page and 'src="data:image/webp' in page


def test_it_says_what_was_found_and_what_was_not(page: str) -> None:
    for words in ("picture files are not there", "gone1.png", "spoils a run", "IMG_1234", "Looked for and not found:"):
        assert words in page
    assert "Not looked for" not in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found; install the package chromium to run this test")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_its_window(page: str, width: int, scheme: str, tmp_path: Path) -> None:
    said = probe(tmp_path, page, width, scheme)
    assert said["scrollWidth"] <= width and said["wide"] == [] and said["requests"] == []
