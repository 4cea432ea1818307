"""The page in a real browser: Debian's chromium, driven by Playwright."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt install chromium")

WAIT = 60_000  # ms; conditions are waited for, and machines are busy
ROOT = Path(__file__).parents[2]


class Server:
    """A review in a process of its own, which can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.start()

    def start(self) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.review.fake", str(self.folder)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", self.process.stdout.readline())
        assert found is not None
        self.address = found[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def kept(self) -> list[dict[str, Any]]:
        file = self.folder / "answers.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.kill()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Open the page under a name. What its console complains of is in ``page.complaints``."""
    contexts: list[Any] = []

    def open_page(name: str = "Ada", **settings: Any) -> Any:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | settings)))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.complaints = []
        page.outside = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda asked: page.outside.append(asked.url)
                if not asked.url.startswith(server.address.split("?")[0]) else None)  # fmt: skip
        page.goto(server.address)
        page.fill("#name", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#asking:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()


def until(page: Any, condition: str, value: Any = None) -> None:
    page.wait_for_function(condition, arg=value, timeout=WAIT)


def handed_in(page: Any) -> None:
    """Wait until nothing waits in the browser any more."""
    until(page, "() => !Object.keys(localStorage).some((key) => key.startsWith('truepair '))")


def press(page: Any, key: str) -> None:
    page.wait_for_selector("#asking:not([hidden])")
    page.keyboard.press(key)


def test_fifty_pairs_by_keyboard_lose_nothing(visit: Callable[..., Any], server: Server) -> None:
    page = visit()
    for number in range(50):
        press(page, "ynusd"[number % 5])
    handed_in(page)
    kinds = ["yes", "no", "unsure", "skip", "same_picture"]
    assert [line["answer"] for line in server.kept()] == [kinds[number % 5] for number in range(50)]
    assert len({line["key"] for line in server.kept()}) == 50  # each pair once
    assert all(line["seconds"] >= 0 and line["person"] == "Ada" for line in server.kept())
    until(page, "() => document.getElementById('pace').textContent.startsWith('50 answers')")
    assert not page.outside
    assert "token" not in page.url
    assert all("400" in line for line in page.complaints), page.complaints  # of the broken picture alone


def test_no_complaint_where_no_picture_is_broken(visit: Callable[..., Any], server: Server) -> None:
    from tests.review.fake import BROKEN

    (server.folder / f"{BROKEN}.png").write_bytes((server.folder / "0.png").read_bytes())
    page = visit()
    for key in "yn?":
        press(page, key)
    page.keyboard.press("Escape")
    press(page, "c")
    page.wait_for_selector("#owner-captions li")
    press(page, " ")
    page.wait_for_selector("#large[open]")
    page.keyboard.press("Escape")
    handed_in(page)
    assert page.complaints == [] and page.outside == []


@pytest.mark.parametrize("dialog", ["help", "naming"])
def test_a_key_right_after_a_dialog_is_for_the_page(visit: Callable[..., Any], dialog: str) -> None:
    page = visit()
    # In one task, so that no frame comes between: the focus is in the closed dialog still.
    target = page.evaluate(
        """(id) => {
            const dialog = document.getElementById(id);
            dialog.showModal();
            dialog.close();
            const focused = document.activeElement;
            focused.dispatchEvent(new KeyboardEvent("keydown", { key: " ", bubbles: true, cancelable: true }));
            return focused.tagName;
        }""",
        dialog,
    )
    assert target in ("BUTTON", "INPUT")
    page.wait_for_selector("#large[open]")


def test_undo_shows_the_pair_again(visit: Callable[..., Any], server: Server) -> None:
    page = visit()
    first = page.text_content("#caption")
    press(page, "y")
    handed_in(page)
    press(page, "z")
    until(page, "(text) => document.getElementById('caption').textContent === text", first)
    press(page, "n")
    handed_in(page)
    assert [line["answer"] for line in server.kept()] == ["yes", "undo", "no"]
    press(page, "y")
    press(page, "Backspace")
    press(page, "Backspace")
    until(page, "(text) => document.getElementById('caption').textContent === text", first)


def test_a_reload_keeps_name_and_place(visit: Callable[..., Any], server: Server) -> None:
    page = visit()
    press(page, "y")
    press(page, "n")
    page.reload()
    page.wait_for_selector("#asking:not([hidden])")
    handed_in(page)
    assert [line["answer"] for line in server.kept()] == ["yes", "no"]
    press(page, "u")
    handed_in(page)
    assert len({line["key"] for line in server.kept()}) == 3


def test_a_killed_server_loses_nothing(visit: Callable[..., Any], server: Server) -> None:
    page = visit()
    for key in "yyn":
        press(page, key)
    handed_in(page)
    until(page, "() => performance.getEntriesByType('resource').some((each) => each.name.includes('besides'))")
    server.kill()
    press(page, "u")
    page.wait_for_selector("#away:not([hidden])")  # maybe before the answer is on its way
    until(page, "() => document.getElementById('away').textContent.includes('1 answer waits here')")
    before = server.address
    server.start()
    assert before.split("?")[0] == server.address.split("?")[0]  # the same port; another token
    until(page, "() => document.getElementById('away').textContent.includes('started anew')")
    page.goto(server.address)
    page.wait_for_selector("#asking:not([hidden])")
    handed_in(page)
    assert [line["answer"] for line in server.kept()] == ["yes", "yes", "no", "unsure"]
    assert page.is_hidden("#away")


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C")
def test_ctrl_c_ends_cleanly_while_a_page_is_open(visit: Callable[..., Any], server: Server) -> None:
    press(visit(), "y")
    server.process.send_signal(signal.SIGINT)
    out, _ = server.process.communicate(timeout=240)
    assert server.process.returncode == 0 and out.strip() == "ended"


def test_two_people_see_where_they_agree(visit: Callable[..., Any], server: Server) -> None:
    ada, bo = visit("Ada"), visit("Bo <b>")
    for page, keys in ((ada, "yn"), (bo, "yy")):
        for key in keys:
            press(page, key)
        handed_in(page)
    until(bo, "() => document.getElementById('agreement').textContent.startsWith('1 of 2 pairs')")
    assert "Bo <b> (you)" in bo.text_content("#people") and "Ada" in bo.text_content("#people")


def test_captions_are_text_whatever_they_hold(visit: Callable[..., Any]) -> None:
    page = visit()
    for start, direction in (
        ("<script>document.title = 'taken'</script>", "ltr"),
        ("كلب بني", "rtl"),
        ("🐕‍🦺 a dog", "ltr"),
    ):
        press(page, "y")
        until(page, "(start) => document.getElementById('caption').textContent.startsWith(start)", start)
        assert page.query_selector("#caption *") is None and page.title() == "truepair review"
        assert page.evaluate("getComputedStyle(document.getElementById('caption')).direction") == direction


def test_a_broken_picture_has_a_placeholder_and_is_skipped(visit: Callable[..., Any], server: Server) -> None:
    page = visit()
    press(page, "y")
    press(page, "y")
    page.wait_for_selector("#broken:not([hidden])")  # also where the next question had to be fetched first
    assert "cannot be shown" in page.text_content("#broken")
    press(page, "s")
    page.wait_for_selector("#zoom:not([hidden])")
    handed_in(page)
    assert server.kept()[-1]["answer"] == "skip"


def test_a_note_goes_with_the_answer_and_letters_in_it_answer_nothing(
    visit: Callable[..., Any], server: Server
) -> None:
    page = visit()
    press(page, "t")
    page.keyboard.type("yny us")
    page.keyboard.press("Enter")
    press(page, "n")
    handed_in(page)
    assert [(line["answer"], line["note"]) for line in server.kept()] == [("no", "yny us")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_by_touch(visit: Callable[..., Any], server: Server, scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for kind in ("yes", "no", "unsure", "skip", "same_picture"):
        box = page.locator(f"[data-answer={kind}]").bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44 and box["y"] > 844 * 2 / 3  # within a thumb's reach
        picture, frame = (page.locator(name).bounding_box() for name in ("#picture", "#zoom"))
        assert picture is None or picture["height"] <= frame["height"] + 1  # a tall one is not cut
        page.tap(f"[data-answer={kind}]")
        page.wait_for_selector("#asking:not([hidden])")
    handed_in(page)
    assert [line["answer"] for line in server.kept()] == ["yes", "no", "unsure", "skip", "same_picture"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")


def test_a_precision_is_stated_by_a_button(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("#certify button")
    until(page, "() => document.getElementById('certificate').textContent.includes('21 of 64')")
    assert page.is_visible("#sample") and page.is_hidden("#certify")


def test_each_judge_that_was_asked_has_a_diagram(visit: Callable[..., Any]) -> None:
    page = visit()
    until(page, "() => document.querySelectorAll('#reliability svg').length === 2")
    assert page.text_content("#reliability h4") == "vlm/vlm <b>x</b>"
    labels = page.evaluate(
        "[...document.querySelectorAll('#reliability svg')].map((one) => one.getAttribute('aria-label'))"
    )
    assert labels[1].endswith(": .50 stated, .40 found")


def test_every_control_has_a_name_and_every_question_is_spoken(visit: Callable[..., Any]) -> None:
    page = visit()
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select')].filter((each) =>
        !(each.getAttribute('aria-label') || each.textContent.trim() || each.labels?.length)).map((each) => each.id)""")
    assert unnamed == []
    press(page, "n")
    until(page, "() => document.getElementById('spoken').textContent.startsWith('No. Next caption: <script>')")
    held: list[Any] = []
    handed_in(page)
    page.route("**/api/next?*", lambda route: held.append(route))
    end = time.monotonic() + WAIT / 1000
    while not held or page.is_visible("#asking"):  # until the questions that are here, or on their way, are answered
        assert time.monotonic() < end
        if page.is_visible("#asking"):
            page.keyboard.press("u")
        page.wait_for_timeout(20)  # lets the browser say what it asks for
    page.unroute("**/api/next?*")  # what was held goes on
    until(page, "() => document.getElementById('spoken').textContent.startsWith('Unsure. Next caption: ')")
