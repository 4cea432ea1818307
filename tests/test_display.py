"""What is shown: text is text, and no terminal, pipe or disk can end a run."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from truepair.display import console, unfailing, unfailing_streams, visible
from truepair.engine.logs.progress import RunProgress, counting

NASTY = "shard-{000..001}[bold]%s\x1b[31m\x9b2J\u202egnp\n[/nope] :smile:\udcff"
SEEN = r"shard-{000..001}[bold]%s\x1b[31m\x9b2J\u202egnp\n[/nope] :smile:\udcff"

MAIN = "from truepair.cli.main import main; main()"


def test_what_a_terminal_would_obey_is_seen() -> None:
    assert visible(NASTY) == SEEN
    assert visible("a\tb\r\x00\x7f\u200b\u2028") == r"a\tb\r\x00\x7f\u200b\u2028"
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert visible("täglich 猫 👩‍🚀 שלום") == "täglich 猫 👩‍🚀 שלום"


def test_a_table_takes_names_for_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(NASTY, title=NASTY, caption=NASTY)
    table.add_row(Text("one\ntwo\x1b[2J"))
    screen = console()
    screen.width = 200
    screen.print(table)
    screen.print(NASTY)
    out = capsys.readouterr().out
    assert out.count(SEEN) == 4
    assert "\x1b" not in out
    assert [line.strip("│ ") for line in out.splitlines() if "one" in line or "two" in line] == ["one", r"two\x1b[2J"]


def test_bars_take_names_for_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with counting(NASTY) as count:
        count(1, 2)
    with RunProgress(3, joins={2: "[bold]ITM{0}"}) as progress:
        progress.show(1, epoch=0, speed=1.0)
        progress.say(NASTY)
    assert capsys.readouterr().err.count(SEEN) >= 2


class _Refusing(io.FileIO):
    """Takes the first bytes, then nothing."""

    taken = b""

    def write(self, data: object) -> int:
        if self.taken:
            raise OSError(5, "Input/output error")
        self.taken += bytes(data)[:3]  # type: ignore[call-overload]
        return 3


def test_a_stream_drops_what_is_refused_and_escapes_what_it_cannot_encode(tmp_path: Path) -> None:
    refusing = _Refusing(str(tmp_path / "a"), "wb")
    stream = unfailing(io.TextIOWrapper(io.BufferedWriter(refusing), encoding="ascii"))
    for _ in range(3):
        print("äöü", file=stream, flush=True)
    assert refusing.taken == b"\\xe"
    assert unfailing(stream).buffer.raw is not refusing  # type: ignore[attr-defined]
    refusing.close()
    print("more", file=stream, flush=True)
    strange = io.StringIO()
    assert unfailing(strange) is strange


def test_a_pipe_that_does_not_wait_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream = unfailing(os.fdopen(writing, "w"))
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=reading, stdout=-1
    )
    os.close(reading)
    stream.write("x" * 300_000)
    stream.flush()
    del stream
    assert reader.communicate(timeout=120)[0].split() == [b"300000"]


def test_a_warning_is_one_line() -> None:
    with unfailing_streams():
        line = warnings.formatwarning("a\nb\x1b", UserWarning, "file\n.py", 3)
    assert line == "a\\nb\\x1b (UserWarning, file\\n.py:3)\n"


def run(folder: Path, words: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """The real command, behind a redirection of the shell."""
    line = f'"$0" -c "{MAIN}" "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    "redirection",
    ["2>&1 | head -1", "2>/dev/full", ">/dev/full", ">/dev/full 2>&1", ">&- 2>&- <&-", "2>&1 | true"],
)
def test_help_is_no_failure(redirection: str, tmp_path: Path) -> None:
    for words in (["--help"], ["mine", "--help"], ["--version"]):
        done = run(tmp_path, words, redirection)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        lost = "truepair: not all of what was printed could be written: No space left on device\n"
        assert done.stderr == (lost if redirection == ">/dev/full" else "")


@pytest.fixture(scope="module")
def odd(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose names and captions say something to a terminal, to rich or to format; some pictures are broken."""
    folder = tmp_path_factory.mktemp("odd")
    names = ["a[bold]b-{}.png", "%s-{}.png", "esc\x1b[31m-{}.png", "nl\ntruepair: done-{}.png", "bidi\u202e-{}.png"]
    captions = ["[bold]{} \x1b[2J", "%d {{x}} {}\nnext", "\x1b]0;title\x07 {}", "[/b] {}"]
    lines = []
    for number, line in enumerate((squares / "pairs.jsonl").read_text().splitlines()):
        row = json.loads(line)
        name = names[number % len(names)].format(number)
        (folder / name).write_bytes(b"broken" if number % 9 == 0 else (squares / row["image"]).read_bytes())
        row |= {"image": name, "captions": [captions[number % len(captions)].format(row["captions"][0])]}
        lines.append(json.dumps(row))
    (folder / "pairs-{000..000}[bold].jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def words(odd: Path) -> list[str]:
    """Of a training that takes seconds."""
    model = {
        "image_encoder": {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "text_layers": 1,
        "fusion_layers": 1,
        "embed_dim": 16,
    }
    recipe = {
        "data": {
            "sources": [str(odd / "pairs-{000..000}[bold].jsonl")],
            "validation_split": "test",
            "max_bad_fraction": 0.5,
            "transform": {"size": 16, "rand_augment_ops": 0},
        },
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {"options": model},
        "loop": {"epochs": 1, "batch_size": 8, "workers": 0, "log_every": 1, "cpu": True},
    }
    (odd / "r.yaml").write_text(json.dumps(recipe))
    return ["train", str(odd / "r.yaml"), "--run-folder", "run"]


def records(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("redirection", ["2>&1 | head -1", ">/dev/full 2>&1"])
def test_a_training_outlives_what_it_writes_to(redirection: str, words: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, words, redirection)
    assert done.returncode == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert {"step", "validation"} <= set(records(tmp_path))
    assert "Traceback" not in done.stdout + done.stderr


def test_a_training_outlives_its_terminal_and_shows_names_as_text(words: list[str], tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "300"},
    )
    os.close(theirs)
    shown = b""
    until = time.monotonic() + 200
    while b"epoch 1" not in shown and time.monotonic() < until:  # the bar stands
        shown += os.read(ours, 1 << 16)
    os.close(ours)  # from here on writing is an "Input/output error"
    assert process.wait(timeout=240) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert "validation" in records(tmp_path)
    text = shown.decode()
    assert r"pairs-{000..000}[bold]" in text
    assert r"esc\x1b[31m-" in text or r"a[bold]b-0.png" in text
    for spoken in ("\x1b]0;title", "\u202e", "\ntruepair: done"):
        assert spoken not in text


def test_the_line_of_a_mistake_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, ["train", "no\nsuch\x1b[31m[bold]{recipe}.yaml"], "")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert r"there is no recipe no\nsuch\x1b[31m[bold]{recipe}.yaml" in done.stderr
