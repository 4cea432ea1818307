"""Where a run's figures go: its log, a log of what differs between machines, and trackers."""

import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator

from truepair.errors import ConfigError
from truepair.training.run_log import RunLog, read_log


class RunRecords:
    """``log.jsonl``, which two equal runs have alike byte by byte, ``timing.jsonl``, and the trackers.

    Trackers cannot forget: after a crash they hold the steps since the last checkpoint twice.

    Args:
        folder: the run folder.
        accelerator: holds the trackers; its first process writes.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator
        main = accelerator.is_main_process
        self._log = RunLog(folder / "log.jsonl", enabled=main)
        self._timing = RunLog(folder / "timing.jsonl", enabled=main)

    def __enter__(self) -> Self:
        if self.accelerator.log_with:
            self.accelerator.init_trackers(self.folder.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        self._timing.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write a record that depends on nothing but the run."""
        self._log.write(kind, step, **values)
        self._track(kind, step, values)

    def write_timing(self, step: int, values: dict[str, float]) -> None:
        """Write a record of speed, waiting and memory."""
        self._timing.write("step", step, **values)
        self._track("timing", step, values)

    def rewind(self, step: int) -> None:
        """Forget what was written after a step."""
        self._log.rewind(step)
        self._timing.rewind(step)

    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint that relies on it."""
        self._log.sync()
        self._timing.sync()

    def validations(self) -> dict[int, dict[str, Any]]:
        """The validation figures so far, by step."""
        return {record["step"]: record for record in read_log(self._log.path) if record["kind"] == "validation"}

    def _track(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self.accelerator.trackers:
            self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)


def require_trackers(names: list[str]) -> None:
    """Check that trackers are installed.

    Raises:
        ConfigError: one is not; accelerate would leave it out without a word.
    """
    for name in names:
        packages = {"tensorboard": ("tensorboard", "tensorboardX")}.get(name, (name,))
        if not any(importlib.util.find_spec(package) for package in packages):
            raise ConfigError(
                f"loop.trackers names {name}, which is not installed; pip install {name}, or leave it out"
            )
