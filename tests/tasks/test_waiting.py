"""The real command, where its loading processes are killed, hang, or have no room; and where a picture is no file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.methods.test_chance import WORDS
from truepair.cli.main import main

PROGRAM = [sys.executable, "-c", "from truepair.cli.main import main; main()"]

SMALL_SHARED_MEMORY = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]

LONG = 240  # seconds on a busy machine


def own_shared_memory() -> bool:
    """Whether the system lets a process have a shared memory of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*SMALL_SHARED_MEMORY, "true"], capture_output=True, check=False).returncode == 0


def command(squares: Path, run: Path, *more: str) -> list[str]:
    pairs = str(squares / "pairs.jsonl")
    return [*PROGRAM, "train", "scratch", pairs, *WORDS, "--loop.epochs", "5000", "--run-folder", str(run), *more]


def begun(words: list[str], run: Path) -> subprocess.Popen[str]:
    """The command, once it has trained some steps."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log, ends = run / "log.jsonl", time.monotonic() + LONG
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < ends, process.communicate(timeout=LONG)
        time.sleep(0.2)
    return process


def loading(process: subprocess.Popen[str]) -> list[int]:
    """The loading processes of a run."""
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status, and what was said."""
    told = process.communicate(timeout=LONG)[1]
    assert "Traceback" not in told, told
    return process.returncode, " ".join(told.split())


def gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{number}/cmdline").exists() for number in processes)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
class TestLoadingProcesses:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_is_served_while_data_are_waited_for(
        self, number: signal.Signals, status: int, squares: Path, tmp_path: Path
    ) -> None:
        process = begun(command(squares, tmp_path / "run", "--loop.workers", "2"), tmp_path / "run")
        stuck = loading(process)
        for one in stuck:
            os.kill(one, signal.SIGSTOP)  # as on a mount that does not answer
        time.sleep(1)
        process.send_signal(number)
        found, told = ended(process)
        step = int(told.partition("stopped by a signal after step ")[2].split(";")[0])
        assert found == status and (tmp_path / f"run/checkpoints/step-{step:08d}").is_dir()
        assert gone(stuck)

    def test_a_killed_process_is_one_line(self, squares: Path, tmp_path: Path) -> None:
        process = begun(command(squares, tmp_path / "run", "--loop.workers", "2"), tmp_path / "run")
        processes = loading(process)
        os.kill(processes[0], signal.SIGKILL)
        status, told = ended(process)
        assert status == 2 and gone(processes)
        assert "truepair: a loading process was killed (SIGKILL), most often for want of memory; lower" in told

    def test_data_that_do_not_come_end_the_run(self, squares: Path, tmp_path: Path) -> None:
        words = command(squares, tmp_path / "run", "--loop.workers", "1", "--loop.data_timeout", "20")
        process = begun(words, tmp_path / "run")
        for one in loading(process):
            os.kill(one, signal.SIGSTOP)
        status, told = ended(process)
        assert status == 2 and "truepair: the loading processes have had no batch for 2" in told
        assert "raise loop.data_timeout" in told


@pytest.mark.skipif(not own_shared_memory(), reason="the system gives no process a shared memory of its own")
class TestSharedMemory:
    def test_too_little_is_one_line_before_anything_is_read(self, squares: Path, tmp_path: Path) -> None:
        words = command(squares, tmp_path / "run", "--loop.workers", "4", "--data.transform.size", "64")
        done = subprocess.run([*SMALL_SHARED_MEMORY, *words], capture_output=True, text=True, check=False, timeout=LONG)
        told = " ".join(done.stderr.split())
        assert done.returncode == 2 and "Traceback" not in told, told
        assert "truepair: 4 loading processes need " in told and "/dev/shm" in told and "--shm-size 8g" in told

    def test_without_processes_states_are_cached_and_trained_on(self, squares: Path, tmp_path: Path) -> None:
        words = command(squares, tmp_path / "run", "--loop.epochs", "1", "--model.freeze_image", "true")
        words += ["--model.cache_images", "true", "--model.cache_folder", str(tmp_path / "cache")]
        done = subprocess.run([*SMALL_SHARED_MEMORY, *words], capture_output=True, text=True, check=False, timeout=LONG)
        assert done.returncode == 0, done.stderr


def test_pictures_that_are_pipes_are_left_out_of_a_run(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    lines = [json.loads(line) for line in (tmp_path / "squares/pairs.jsonl").read_text().splitlines()]
    pipes = [next(line["image"] for line in lines if line["split"] == split) for split in ("train", "test")]
    for name in pipes:
        (tmp_path / "squares" / name).unlink()
        os.mkfifo(tmp_path / "squares" / name)
    words = ["train", "scratch", str(tmp_path / "squares/pairs.jsonl"), *WORDS, "--loop.epochs", "2", "--report"]
    main([*words, "--data.max_bad_fraction", "0.3", "--run-folder", str(tmp_path / "run")])
    assert "left out: 1 of " in capsys.readouterr().err
    listed = [json.loads(line) for line in (tmp_path / "run/skipped.jsonl").read_text().splitlines()]
    assert {Path(entry["file"]).name for entry in listed if entry["what"] != "cut"} == {
        Path(name).name for name in pipes
    }
    assert all("is a pipe, not a file" in entry["why"] for entry in listed if entry["what"] != "cut")
