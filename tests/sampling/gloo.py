"""A pool of processes that form gloo groups of 1, 2 or 4 ranks; started once, because starting them is slow."""

import multiprocessing.connection
import multiprocessing.process
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from tests.engine.processes import CONTEXT, PRELOAD


def _work(connection: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    while True:
        job = connection.recv()
        if job is None:
            return
        task, argument, rank, world, meeting = job
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        try:
            connection.send((task(argument), None))
        except Exception as error:
            connection.send((None, repr(error)))
        dist.destroy_process_group()


class GlooPool:
    """Runs a function of a test module on several ranks.

    Args:
        folder: an empty folder where ranks meet.
        size: the most ranks.
        preload: modules that are imported once for all ranks.
    """

    def __init__(self, folder: Path, size: int = 4, preload: str = "truepair.sampling.grouped") -> None:
        # A test process has one fork server, which other tests use as well: whoever is first imports for all of them.
        CONTEXT.set_forkserver_preload([*PRELOAD, preload])
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.folder = folder
        self.runs = 0
        self.workers = [_start() for _ in range(size)]

    def run(self, task: Callable[[Any], Any], argument: Any, world: int) -> list[Any]:
        """Call a function on each rank; returns what each rank returned."""
        self.runs += 1
        meeting = self.folder / f"meeting-{self.runs}"
        for rank in range(world):
            if not self.workers[rank].process.is_alive():
                self.workers[rank] = _start()
            self.workers[rank].pipe.send((task, argument, rank, world, meeting))
        answers = []
        for rank in range(world):
            if not self.workers[rank].pipe.poll(120):
                raise TimeoutError(f"rank {rank} of {world} does not answer")
            answers.append(self.workers[rank].receive())
        for _, error in answers:
            if error is not None:
                raise RuntimeError(error)
        return [answer for answer, _ in answers]

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            if worker.process.is_alive():
                worker.pipe.send(None)
        for worker in self.workers:
            worker.process.join(60)


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    pipe: multiprocessing.connection.Connection

    def receive(self) -> Any:
        """The answer of a job; a process that died is waited for, so that it is known to be dead from now on."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(60)
            raise


def _start() -> _Worker:
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_work, args=(there,), daemon=True)
    process.start()
    there.close()  # so that a process that dies is noticed here
    return _Worker(process, here)
