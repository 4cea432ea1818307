"""A run that compares its figures with those before training evaluates once before its first step."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import TinyModel, TinyRun, accuracy
from truepair.engine.logs.log import read_log
from truepair.engine.loop.loop import TrainingLoop


def fallen(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    return f"from {before['accuracy']:.2f} to {now['accuracy']:.2f}" if now["accuracy"] != before["accuracy"] else None


@dataclass(frozen=True)
class ComparedRun(TinyRun):
    def build(self) -> TrainingLoop:
        loop = super().build()
        loop.validation.compare = fallen
        return loop


def validations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == "validation"]


def test_what_was_before_training_is_evaluated_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = ComparedRun(tmp_path).build()
    start = accuracy(loop.model)["accuracy"]
    loop.run()
    records = validations(tmp_path)
    assert [(record["step"], record["epoch"]) for record in records] == [(0, -1), (5, 0), (10, 1), (15, 2)]
    assert records[0]["accuracy"] == start
    said = capsys.readouterr().err
    assert said.count("before training: validation accuracy") == 1
    assert f"from {start:.2f} to {records[-1]['accuracy']:.2f}" in said


@pytest.mark.parametrize("stop_at", [0, 2, 7])
def test_a_stopped_run_does_not_evaluate_the_start_again(tmp_path: Path, stop_at: int) -> None:
    """Before the first checkpoint, at step 3, there is nothing to go on from, and all begins anew."""
    ComparedRun(tmp_path / "whole").build().run()
    calls: list[int] = []

    def counted(model: TinyModel) -> dict[str, float]:
        calls.append(1)
        return accuracy(model)

    loop = ComparedRun(tmp_path / "stopped", evaluator=counted).build()
    take = loop._take_step

    def stop(*arguments: Any) -> Any:
        if loop.done == stop_at:
            raise InterruptedError
        return take(*arguments)

    loop._take_step = stop  # type: ignore[method-assign]
    with contextlib.suppress(InterruptedError):
        loop.run()
    ComparedRun(tmp_path / "stopped", evaluator=counted).build().run()
    assert len(calls) == (4 if stop_at > 3 else 5)
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]


def test_the_start_is_never_the_best_step(tmp_path: Path) -> None:
    def worse(model: TinyModel) -> dict[str, float]:
        worse.figure -= 0.1  # type: ignore[attr-defined]
        return {"accuracy": worse.figure}  # type: ignore[attr-defined]

    worse.figure = 1.0  # type: ignore[attr-defined]
    run = ComparedRun(tmp_path, evaluator=worse, loop={"best_figure": "accuracy"}).build().run()
    assert run.best_folder is not None and run.best_folder.name.endswith("5")


def test_the_start_is_evaluated_even_where_epochs_are_not(tmp_path: Path) -> None:
    loop = ComparedRun(tmp_path, loop={"evaluate_every": 0}).build()
    loop.run()
    assert [record["step"] for record in validations(tmp_path)] == [0]
    assert loop.validation.before is not None


def test_without_a_comparison_nothing_is_evaluated_before_training(tmp_path: Path) -> None:
    TinyRun(tmp_path).go()
    assert [record["step"] for record in validations(tmp_path)] == [5, 10, 15]
