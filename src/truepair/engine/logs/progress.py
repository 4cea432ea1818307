"""The progress bars of a run: steps, pairs a second and the time left."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from truepair.display import console, visible


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many are done; yields what to call with (done, all)."""
    screen = console(errors=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,  # in a file it would leave empty lines
    ) as bar:
        task = bar.add_task(visible(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_UNKNOWN = "-:--:--"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class RunProgress:
    """A rich progress bar over the steps of a run; silent on all ranks but the first.

    Args:
        total_steps: steps of the whole run.
        joins: number of a step -> what joins from it on and makes steps slower, such as ITM. Until then, the time left
            is that to this step: how slow later ones are is not known yet.
        enabled: draw it at all.
        clock: seconds.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        joins: Mapping[int, str] | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_steps = total_steps
        self.joins = {join: name for join, name in sorted((joins or {}).items()) if 0 < join < total_steps}
        self._clock = clock
        self._first = clock()
        self._since: tuple[int, int, float] | None = None  # next join, step and time from which on speed is measured
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} pairs/s", markup=False),
            TextColumn("{task.fields[left]}", style="progress.remaining", markup=False),
            console=console(errors=True),
            disable=not enabled,
        )
        self._enabled = enabled
        self._task = self._bar.add_task("train", total=total_steps, epoch=1, speed=0.0, left=_UNKNOWN)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, step: int, *, epoch: int, speed: float) -> None:
        """Move the bar to a number of finished steps; epochs are shown from 1."""
        self._bar.update(self._task, completed=step, epoch=epoch + 1, speed=speed, left=self.time_left(step))

    def time_left(self, step: int) -> str:
        """How long the run has to go, in words; of a finished one how long it took.

        Args:
            step: finished steps.
        """
        now = self._clock()
        if step >= self.total_steps:
            return _duration(now - self._first)
        stop = next((join for join in self.joins if join > step), self.total_steps)
        if self._since is None or self._since[0] != stop:
            self._since = stop, step, now
        _, start, started = self._since
        left = _duration((now - started) / (step - start) * (stop - step)) if step > start else _UNKNOWN
        return left if stop == self.total_steps else f"{left} until {self.joins[stop]} joins; then slower"

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._enabled:
            self._bar.console.print(line, highlight=False, soft_wrap=True)
