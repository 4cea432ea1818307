"""SIGTERM, SIGINT and SIGHUP: a checkpoint at the end of the step, an exit status, and the same run afterwards."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.engine.processes import Fault, run_in_process
from tests.engine.tiny import TinyModel, TinyRun, remains
from truepair.engine.logs.log import read_log
from truepair.engine.loop.signals import RunStopped, StopSignals
from truepair.engine.state.checkpoint import CheckpointStore

STEP = "truepair.engine.loop.update:_hardest"


def steps_on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = TinyRun(tmp_path_factory.mktemp("whole"))
    assert run_in_process(run)[0] == 0
    return remains(run.folder)


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("call", [7, 10, 15])
def test_a_signal_saves_the_step_and_ends(
    kind: signal.Signals, status: int, call: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    run = TinyRun(tmp_path)
    assert run_in_process(run, Fault(STEP, call, kind=kind))[0] == status
    assert steps_on_disk(tmp_path)[-1] == call
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def test_a_second_signal_ends_at_once(whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    assert run_in_process(run, Fault(STEP, 8, kind=signal.SIGTERM, again=True))[0] == 143
    assert steps_on_disk(tmp_path) == [5, 6]
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def test_loading_processes_outlive_a_signal_to_the_group(whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path, loop={"workers": 2})
    assert run_in_process(run, Fault(STEP, 7, kind=signal.SIGTERM, group=True))[0] == 143
    assert steps_on_disk(tmp_path) == [6, 7]
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(whole: dict[str, bytes], tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    assert run_in_process(run, Fault("truepair.engine.state.checkpoint:seal", 3, kind=signal.SIGTERM))[0] == 143
    assert steps_on_disk(tmp_path)[-1] == 7
    assert run_in_process(run)[0] == 0
    assert remains(tmp_path) == whole


def endless(model: TinyModel) -> dict[str, float]:
    """Is told to stop in the middle, and would go on for a minute."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    raise AssertionError("the signal did not end the evaluation")


def test_an_evaluation_is_broken_off_and_done_later(whole: dict[str, bytes], tmp_path: Path) -> None:
    status, seconds = run_in_process(TinyRun(tmp_path, evaluator=endless))
    assert status == 143
    assert seconds < 30
    assert steps_on_disk(tmp_path)[-1] == 5
    assert not [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "validation"]
    assert run_in_process(TinyRun(tmp_path))[0] == 0
    assert remains(tmp_path) == whole


def test_handlers_are_put_back(tmp_path: Path) -> None:
    former = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run = TinyRun(tmp_path, loop={"epochs": 1})
    assert run.go().steps == 5
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == former


def test_a_stop_says_so_and_closes_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = TinyRun(tmp_path).build()
    save = CheckpointStore.save

    def save_and_signal(*arguments: object) -> Path:
        if not loop.signals.number:
            os.kill(os.getpid(), signal.SIGINT)
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStore, "save", save_and_signal)
    with pytest.raises(RunStopped) as stopped:
        loop.run()
    assert stopped.value.code == 130
    assert loop.bare_step.closed == 1


def test_what_is_interruptible_stops_before_it_starts() -> None:
    with StopSignals() as signals:
        assert signals.interruptibly(lambda: 3) == 3
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        assert signals.interruptibly(lambda: 3) is None


def test_what_nohup_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.number == 0
    finally:
        signal.signal(signal.SIGHUP, former)
