"""A run that was killed anywhere, and started again with the same command, is the run that was never killed."""

import signal
from pathlib import Path

import pytest

from tests.engine.processes import Fault, run_in_process
from tests.engine.tiny import TinyRun, remains
from truepair.engine.logs.log import read_log

# Where a run of 15 steps, with checkpoints at 3, 5, 6, 9, 10, 12 and 15, and a new epoch after 5 and 10, is killed.
POINTS = {
    "in the first step": Fault("truepair.engine.loop.update:_hardest", 1),
    "in a step, before the update": Fault("truepair.engine.loop.update:_hardest", 8),
    "after the update": Fault("truepair.engine.loop.average:WeightAverage.update", 8),
    "between a step and its log": Fault("truepair.engine.logs.log:RunLog.write", 9),
    "in a checkpoint, after the model": Fault("truepair.engine.state.snapshot:save_optimizer", 2),
    "in a checkpoint, before the manifest": Fault("truepair.engine.state.checkpoint:seal", 3),
    "in a checkpoint, before the rename": Fault("truepair.engine.state.checkpoint:move_folder", 3),
    "in a checkpoint, after the rename": Fault("truepair.engine.state.checkpoint:move_folder", 3, after=True),
    "between checkpoint and clearing up": Fault("truepair.engine.state.checkpoint:remove_folder", 1),
    "while planning an epoch": Fault("truepair.sampling.grouped:lay_out", 2),
    "before the plan is written": Fault("truepair.sampling.plan:PlanFolder.write", 2),
    "after the plan is written": Fault("truepair.sampling.plan:PlanFolder.write", 2, after=True),
    "in an evaluation": Fault("tests.engine.tiny:normalize", 2 * 9 + 2),
    "in the last evaluation": Fault("truepair.engine.loop.validation:Validation._score", 3),
    "while writing the final model": Fault("truepair.files:move_folder", 1),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nobody stopped."""
    run = TinyRun(tmp_path_factory.mktemp("whole"))
    assert run_in_process(run)[0] == 0
    return remains(run.folder)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(point: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    assert run_in_process(run, POINTS[point])[0] == -signal.SIGKILL
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def test_killed_again_and_again_with_other_workers(whole: dict[str, bytes], tmp_path: Path) -> None:
    for workers, call in ((0, 4), (2, 5), (1, 6)):
        run = TinyRun(tmp_path, loop={"workers": workers})
        assert run_in_process(run, Fault("truepair.engine.loop.update:_hardest", call))[0] == -signal.SIGKILL
    assert run_in_process(TinyRun(tmp_path, loop={"workers": 2}))[0] == 0
    assert remains(tmp_path) == whole


def test_an_exception_is_no_different(whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    assert run_in_process(run, Fault("truepair.engine.loop.update:_hardest", 11, kind=0))[0] == 1
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def test_skipped_steps_are_remembered(tmp_path: Path) -> None:
    options = {"on_non_finite": "skip", "max_skipped": 1}
    quiet, stopped = (TinyRun(tmp_path / name, loop=options, poisoned_epoch=1) for name in ("quiet", "stopped"))
    assert run_in_process(quiet)[0] == 0
    assert run_in_process(stopped, Fault("truepair.engine.loop.update:_hardest", 11))[0] == -signal.SIGKILL
    assert run_in_process(stopped)[0] == 0
    assert remains(stopped.folder) == remains(quiet.folder)
    assert len(read_log(quiet.folder / "bad_batches.jsonl")) == 2


def test_a_finished_run_has_nothing_left_to_do(whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    for _ in range(2):
        assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole
