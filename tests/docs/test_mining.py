"""The programs of docs/mining.md run as they stand there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "mining.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def run(number: int, space: dict[str, object] | None = None) -> dict[str, object]:
    space = {"__name__": "docs"} if space is None else space
    exec(compile(PROGRAMS[number], f"{PAGE.name}: program {number}", "exec"), space)
    return space


def test_the_second_epoch_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    memory = run(0)["judge"].memory  # type: ignore[attr-defined]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].endswith(", 0 remembered")
    assert memory.hits == memory.misses > 0


def test_the_most_suspicious_pairs_are_mostly_true_and_mining_finds_more(capsys: pytest.CaptureFixture[str]) -> None:
    space = run(1)
    assert space["share"] > 0.3  # type: ignore[operator]
    assert "% of the 50" in capsys.readouterr().out
    run(2, space)
    assert len(space["mined"]) > 100  # type: ignore[arg-type]
    assert float(space["right"].float().mean()) > 0.5  # type: ignore[attr-defined]


def test_a_judge_of_captions_tells_scenes_apart() -> None:
    space = run(3)
    assert space["tan_dog"] > 0.8 and space["in_snow"] < 0.3  # type: ignore[operator]


def test_every_program_is_run_and_every_judge_is_listed() -> None:
    from truepair.judges.open import JUDGES

    assert len(PROGRAMS) == 4
    assert all(f"| `{kind}` |" in TEXT for kind in JUDGES)
