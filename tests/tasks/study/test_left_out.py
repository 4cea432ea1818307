"""What the runs of a study left out: each line once."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from truepair.tasks.study.runner import left_out_of


def test_each_line_is_said_once_with_the_number_of_its_runs(tmp_path: Path) -> None:
    runs: list[Any] = []
    for name, result in {"a": {"left_out": ["cut: 1"]}, "b": {"left_out": ["cut: 1", "merged: 2"]}, "old": {}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
        runs.append(SimpleNamespace(folder=tmp_path / name))
    assert left_out_of(runs) == [
        "cut: 1 (in 2 of 3 runs, which list it in skipped.jsonl)",
        "merged: 2 (in 1 of 3 runs, which list it in skipped.jsonl)",
    ]
