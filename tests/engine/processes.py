"""Runs in processes of their own, which can be killed at a stated point."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["tests.engine.tiny", "tests.tasks.squares_run", "truepair.engine.loop.loop"]


@dataclass(frozen=True)
class Fault:
    """What happens when a function of the package is called for the n-th time.

    Attributes:
        place: "module:name", or "module:Class.name".
        call: which call, from 1.
        kind: a signal to send to oneself; 0 raises an error.
        after: let the call happen first.
        again: send the signal twice.
        group: send it to the whole process group.
    """

    place: str
    call: int
    kind: int = signal.SIGKILL
    after: bool = False
    again: bool = False
    group: bool = False

    def arm(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """Replace the function in this process, with ``setattr`` or monkeypatch's."""
        module, path = self.place.split(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original: Callable[..., Any] = getattr(owner, name)
        calls = 0

        def faulty(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.call:
                return original(*arguments, **options)
            answer = original(*arguments, **options) if self.after else None
            self.strike()
            return answer if self.after else original(*arguments, **options)

        put(owner, name, faulty)

    def strike(self) -> None:
        """Let it happen."""
        if not self.kind:
            raise RuntimeError("struck")
        for _ in range(1 + self.again):
            if self.group:
                os.killpg(0, self.kind)
            else:
                os.kill(os.getpid(), self.kind)


def _work(run: Any, fault: Fault | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup would hand on that it is ignored
    multiprocessing.set_start_method("fork", force=True)  # a fork server would import torch for each worker
    torch.set_num_threads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stderr.fileno())
    if fault is not None:
        fault.arm()
    run.go()


def _start(run: Any, fault: Fault | None, environment: dict[str, str]) -> BaseProcess:
    CONTEXT.set_forkserver_preload(PRELOAD)
    process = CONTEXT.Process(target=_work, args=(run, fault, environment))
    process.start()
    return process


def _status(process: BaseProcess, limit: float) -> int:
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"the run did not end within {limit} s")
    return process.exitcode


def run_in_process(run: Any, fault: Fault | None = None, limit: float = 240) -> tuple[int, float]:
    """Run in a process of its own; returns its exit code (negative: a signal) and the seconds it took."""
    started = time.monotonic()
    return _status(_start(run, fault, {}), limit), time.monotonic() - started


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def threads_of_group() -> list[str]:
    """The threads with which this process exchanges tensors; an interpreter must not end before them."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted(name for name in names if "gloo" in name)


def run_ranks(runs: Sequence[Any], faults: Sequence[Fault | None] | None = None, limit: float = 240) -> list[int]:
    """Run one process for each rank; returns their exit codes."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"WORLD_SIZE": str(len(runs)), "LOCAL_WORLD_SIZE": str(len(runs))}
    processes = [
        _start(run, fault, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, (run, fault) in enumerate(zip(runs, faults or [None] * len(runs), strict=True))
    ]
    return [_status(process, limit) for process in processes]
