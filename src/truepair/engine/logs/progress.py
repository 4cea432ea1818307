"""The progress bars of a run: steps, pairs a second and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many are done; yields what to call with (done, all)."""
    console = Console(stderr=True)
    with Progress(
        TextColumn(label),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # in a file it would leave empty lines
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class RunProgress:
    """A rich progress bar over the steps of a run; silent on all ranks but the first.

    Args:
        total_steps: steps of the whole run.
        enabled: draw it at all.
    """

    def __init__(self, total_steps: int, *, enabled: bool = True) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} pairs/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._enabled = enabled
        self._task = self._bar.add_task("train", total=total_steps, epoch=1, speed=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, step: int, *, epoch: int, speed: float) -> None:
        """Move the bar to a number of finished steps; epochs are shown from 1."""
        self._bar.update(self._task, completed=step, epoch=epoch + 1, speed=speed)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._enabled:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
