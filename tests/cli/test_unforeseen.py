"""What nobody foresaw is one line for the user, and a file with the traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from truepair.cli.main import main

PROGRAM = (
    "import truepair.cli.doctor as doctor\n"
    "def run(words):\n"
    "    raise ZeroDivisionError('first\\nsecond')\n"
    "doctor.run = run\n"
    "from truepair.cli.main import main\n"
    "main()\n"
)


def truepair(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **variables}
    call = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=400)


def test_the_traceback_is_in_a_file_and_the_line_says_where(tmp_path: Path) -> None:
    done = truepair("doctor", "my pairs.csv", "caf\udce9", XDG_CACHE_HOME=str(tmp_path))
    (file,) = (tmp_path / "truepair" / "errors").iterdir()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "truepair: an error that truepair did not foresee: ZeroDivisionError: first second; "
        f"its traceback is in {file}; TRUEPAIR_DEBUG=1 prints it\n"
    )
    kept = file.read_text()
    assert kept.startswith("truepair 0.")
    assert "\ntruepair doctor 'my pairs.csv' 'caf\\udce9'\n" in kept
    assert "Traceback (most recent call last)" in kept
    assert kept.endswith("ZeroDivisionError: first\nsecond\n")


def test_without_a_place_for_the_file_it_is_still_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    done = truepair("doctor", "x", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "ZeroDivisionError: first second; its traceback could not be kept (could not write " in done.stderr
    assert done.stderr.endswith("); TRUEPAIR_DEBUG=1 prints it\n")


def test_whoever_looks_for_the_error_sees_the_traceback(tmp_path: Path) -> None:
    done = truepair("doctor", "x", XDG_CACHE_HOME=str(tmp_path), TRUEPAIR_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("truepair: an error that truepair did not foresee: ZeroDivisionError: first second\n")
    assert not (tmp_path / "truepair").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "clip", "x" * 300 + ".csv"], "is too long for the name of a file; correct it"),
        (["train", "clip", "sample", "--loop.workers", "-1"], "truepair: loop.workers is -1; give 0 or more"),
        (["train", "scratch", "sample", "--model.options.num_attention_heads", "0"], "num_attention_heads is 0; giv"),
        (["doctor", "sample", "--near", ".nan"], "truepair: near is nan; give a finite number"),
    ],
)
def test_what_was_foreseen_is_no_such_error(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "truepair" / "errors").exists()
