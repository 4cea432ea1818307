"""Runs the cells of a study in worker processes, each once; what is done is not done again."""

import contextlib
import copy
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from truepair.data.left_out import SKIPPED
from truepair.data.table import PairTable
from truepair.display import unfailing
from truepair.errors import ConfigError, DataError, TruepairError
from truepair.files import one_line_errors, write_json, write_text
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.student import Say, build_student
from truepair.mining.mine import MiningConfig
from truepair.models.open import OpenedModel
from truepair.tasks.mining import fit_judge, mine
from truepair.tasks.pretraining import pretrain
from truepair.tasks.study.cells import StudyRun
from truepair.tasks.study.results import figures_of


class StudentMemory:
    """Builds students; one that starts as the last one did is a copy of it.

    The arms of a study start alike, seed by seed, and to load and draw all weights takes a tenth of a short run.
    """

    def __init__(self) -> None:
        self._last: tuple[object, OpenedModel, Tensor] | None = None

    def build(self, recipe: PretrainRecipe, train: PairTable, say: Say) -> OpenedModel:
        """See :func:`truepair.methods.student.build_student`; torch's generator is left as that would leave it."""
        if recipe.text.tokenizer == "train":  # depends on the captions as well
            return build_student(recipe, train, say)
        start = (recipe.model, recipe.text, recipe.data.transform, recipe.loop.seed)
        if self._last is None or self._last[0] != start:
            self._last = None  # so that there are never three
            self._last = start, build_student(recipe, train, say), torch.get_rng_state()
        _, student, random_state = self._last
        torch.set_rng_state(random_state)
        return OpenedModel(copy.deepcopy(student.model), student.preprocessing)


RESULT = "result.json"

DEFINITION = "definition.txt"

LEFT_OUT = "left_out"
"""What a run left out, cut, merged or replaced, in its result."""

_students = StudentMemory()  # of this process


def run_study(runs: Sequence[StudyRun], workers: int, say: Say, *, redo: bool = False) -> None:
    """Do every run that is not done; those that others need come first.

    A run that fails does not stop the others, but those that need it.

    Args:
        runs: in an order in which they can be done.
        workers: processes; each gets its share of the cores. With 1, this process does everything.
        say: prints a line.
        redo: delete runs of another definition, and do them again.

    Raises:
        ConfigError: a folder holds a run of another definition.
        TruepairError: runs failed; the first is named.
    """
    if redo:
        for run in runs:
            if state_of(run) == "changed":
                shutil.rmtree(run.folder)
    waiting = [run for run in runs if not is_done(run)]
    if not waiting:
        return
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are done; {len(waiting)} to go")
    progress = _Progress(len(waiting), say)
    for run, error in _done_here(waiting) if workers == 1 else _done_by_workers(waiting, workers):
        progress.add(run, error)
    if progress.failed:
        first = next(iter(progress.failed.items()))
        raise TruepairError(f"{len(progress.failed)} of {len(waiting)} runs failed; the first, {first[0]}: {first[1]}")


def is_done(run: StudyRun) -> bool:
    """Whether a run has left its result.

    Raises:
        ConfigError: it is the result of another definition.
    """
    state = state_of(run)
    if state == "changed":
        raise ConfigError(
            f"{run.folder} holds a run of another definition; give --redo to do such runs again, another --folder, or "
            "the old settings"
        )
    return state == "done"


def state_of(run: StudyRun) -> Literal["to do", "done", "changed"]:
    """Whether a run's folder holds its result, or that of another definition."""
    file = run.folder / RESULT
    if not file.exists():
        return "to do"
    same = json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == run.fingerprint
    return "done" if same else "changed"


def left_out_of(runs: Sequence[StudyRun]) -> list[str]:
    """What runs that are done left out, cut, merged or replaced: each line once, with how many of the runs did so."""
    results = [json.loads((run.folder / RESULT).read_text(encoding="utf-8")) for run in runs]
    counts = Counter(line for result in results for line in result.get(LEFT_OUT, ()))
    return [f"{line} (in {count} of {len(runs)} runs, which list it in {SKIPPED})" for line, count in counts.items()]


def do_run(run: StudyRun) -> None:
    """Do one run, and write its ``result.json`` last; what it says goes to ``said.txt``.

    Raises:
        TruepairError: whatever the command raises.
    """
    asked = run.folder / DEFINITION
    goes_on = run.command == "pretrain" and asked.exists() and asked.read_text(encoding="utf-8") == run.fingerprint
    if run.folder.exists() and not goes_on:
        shutil.rmtree(run.folder)  # half a judge, or half a run of another definition
    write_text(asked, run.fingerprint)
    started = time.perf_counter()
    file = run.folder / "said.txt"
    with one_line_errors(file, DataError, "free some space"):
        opened = file.open("w", encoding="utf-8")
    with opened:
        said = unfailing(opened)
        found = _COMMANDS[run.command](run, lambda line: print(line, file=said, flush=True))
    result = {"fingerprint": run.fingerprint, "seconds": time.perf_counter() - started, **found}
    write_json(run.folder / RESULT, result)


def _pretrain(run: StudyRun, say: Say) -> dict[str, Any]:
    outcome = pretrain(run.recipe, run.folder, say, build=_students.build)
    if run.arm is None:
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    figures = figures_of(run.folder)
    return {"pairs": len(outcome.train_images.table), "figures": figures, LEFT_OUT: outcome.left_out.summaries}


def _judge(run: StudyRun, say: Say) -> dict[str, Any]:
    fit_judge(run.recipe, run.folder, say)
    return {}


def _mine(run: StudyRun, say: Say) -> dict[str, Any]:
    assert run.judge is not None  # PrepareConfig sees to it
    mined = mine(run.recipe, run.judge, run.folder, say, MiningConfig(low=run.low, high=run.high))
    return {"mined": len(mined)}


_COMMANDS = {"pretrain": _pretrain, "judge": _judge, "mine": _mine}

Done = tuple[StudyRun, TruepairError | None]


def _done_here(runs: Sequence[StudyRun]) -> Iterator[Done]:
    """Do the runs one after the other; a run whose need failed fails with it."""
    failed: set[Path] = set()
    for run in runs:
        error = _missing(run, failed)
        if error is None:
            try:
                do_run(run)
            except TruepairError as raised:
                error = raised
        if error is not None:
            failed.add(run.folder)
        yield run, error


def _done_by_workers(runs: Sequence[StudyRun], workers: int) -> Iterator[Done]:
    """Do the runs in processes, in order, as far as needs allow."""
    # Forking a process that has run torch is not safe; one that has only imported it is, and spares each worker that.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting, failed, open_folders = list(runs), set[Path](), {run.folder for run in runs}
    with ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool, _nothing_queued(pool):
        going: dict[Future[None], StudyRun] = {}
        while waiting or going:
            for run in list(waiting):
                error = _missing(run, failed)
                if error is not None:
                    waiting.remove(run)
                    failed.add(run.folder)
                    yield run, error
                elif len(going) < 2 * workers and not any(folder in open_folders for folder in run.needs):
                    waiting.remove(run)
                    going[pool.submit(do_run, run)] = run
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                run, error = going.pop(future), None
                try:
                    future.result()
                    open_folders.discard(run.folder)
                except BrokenProcessPool as broken:
                    raise TruepairError(
                        f"a worker died in {run.name} or beside it, of too little memory perhaps; the same command "
                        "goes on from there, with fewer --workers if you like"
                    ) from broken
                except TruepairError as raised:
                    error = raised
                    failed.add(run.folder)
                yield run, error


@contextlib.contextmanager
def _nothing_queued(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Leave a pool without the runs that are queued, when something goes wrong or the user stops."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _missing(run: StudyRun, failed: set[Path]) -> TruepairError | None:
    lost = next((folder for folder in run.needs if folder in failed), None)
    return None if lost is None else TruepairError(f"{'/'.join(lost.parts[-3:])}, which it needs, failed")


def _start_worker(threads: int) -> None:
    """Prepare a worker process: its share of the cores, quiet, and an end with the process that started it."""
    torch.set_num_threads(threads)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars of several workers, and what libraries have to say
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Progress:
    """Says how far a study is, and keeps what failed.

    Args:
        count: runs to do.
        say: prints a line.
    """

    def __init__(self, count: int, say: Say) -> None:
        self.count = count
        self.say = say
        self.done = 0
        self.started = time.monotonic()
        self.failed: dict[str, TruepairError] = {}

    def add(self, run: StudyRun, error: TruepairError | None) -> None:
        """Take note of a finished run."""
        self.done += 1
        if error is not None:
            self.failed[run.name] = error
            self.say(f"failed: {run.name}: {error}")
            return
        seconds = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))["seconds"]
        left = (time.monotonic() - self.started) / self.done * (self.count - self.done)
        self.say(f"{self.done}/{self.count} {run.name}: {seconds:.0f} s, {left / 60:.0f} min to go")
