"""The programs of docs/objectives.md run as they stand there."""

import contextlib
import io
import math
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
NAMES = ["sigmoid", "plain loop"]


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_program_runs_and_learns(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "docs"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(PROGRAMS[number], f"{PAGE.name}: {NAMES[number]}", "exec"), space)
    losses = [float(loss) for loss in space["losses"]]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert "loss" in printed.getvalue()


def test_every_program_is_run() -> None:
    assert len(PROGRAMS) == len(NAMES)
