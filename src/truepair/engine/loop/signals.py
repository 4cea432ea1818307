"""SIGTERM, SIGINT and SIGHUP: a request that the loop serves at the end of a step, and while it waits for data."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from truepair.data.loading import STOP_SIGNALS

_Answer = TypeVar("_Answer")


class RunStopped(SystemExit):
    """A run was stopped by a signal, after its checkpoint; the exit status is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class _InterruptedError(BaseException):
    """Leaves what must not wait for the end of a step; a BaseException, so that nobody takes it for a failure."""


class StopSignals:
    """Catches SIGTERM, SIGINT and SIGHUP while it is entered; the second signal ends the process at once.

    SIGHUP stays ignored where nohup has it ignored: the run outlives its terminal.

    In a thread other than the main one Python cannot set handlers, and nothing is caught.

    Attributes:
        number: the signal that was caught; 0 if none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._came = 0.0
        self._interruptible = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            asked = [number for number in STOP_SIGNALS if not _outlived(number)]
            self._former = {number: signal.signal(number, self._handle) for number in asked}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def interruptibly(self, task: Callable[[], _Answer]) -> _Answer | None:
        """Call what must not hold up a stop, and return its answer; None if a signal came before or during it."""
        try:
            self._interruptible = True
            answer = None if self.number else task()
            self._interruptible = False
            return answer
        except _InterruptedError:
            return None
        finally:
            self._interruptible = False

    @property
    def seconds(self) -> float:
        """Since the signal came; 0 if none has."""
        return time.monotonic() - self._came if self.number else 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        self._came = time.monotonic()
        if self._interruptible:
            raise _InterruptedError


def _outlived(number: signal.Signals) -> bool:
    """Whether a signal is that of a closed terminal, which nobody waits for."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
