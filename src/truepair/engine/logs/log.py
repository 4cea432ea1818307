"""Where a run's figures go: its log, a log of what differs between machines, and trackers."""

import contextlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator

from truepair.display import say
from truepair.errors import CheckpointError, ConfigError
from truepair.files import as_json, one_line_errors, write_text

Say = Callable[[str], object]

_ADVICE = "free some space and run the same command again"


class JsonlLog:
    """A file of records, one JSON object a line, that only grows, until it is rewound.

    A resumed run first forgets what was written after the checkpoint it starts from, so that the file reads as if the
    run had never been interrupted.

    Args:
        path: the file, created with its folder when missing.
        enabled: write at all; on for one rank of a run.

    Raises:
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self.path = path
        self.enabled = enabled
        if enabled:
            with one_line_errors(path, CheckpointError, _ADVICE):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one record: what it is (``kind``), the number of finished steps, and any JSON values.

        Each line is valid JSON: a number that is not finite is null.

        Raises:
            CheckpointError: the disk is full, say.
        """
        if not self.enabled:
            return
        with one_line_errors(self.path, CheckpointError, _ADVICE):
            self._file.write(as_json({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()

    def rewind(self, step: int, say: Say = warnings.warn, kept: Path | None = None) -> None:
        """Forget every record of a step later than ``step``, and a half-written last line.

        Args:
            step: the last one that stays.
            say: prints a line, where the file is damaged.
            kept: a copy of the file as it was after that step, which counts where the file does not begin like it.

        Raises:
            CheckpointError: the disk is full, say.
        """
        if not self.enabled:
            return
        text = self.path.read_bytes()
        if kept is not None and kept.is_file() and not text.startswith(begin := kept.read_bytes()):
            say(f"{self.path} is not as the run wrote it; it is restored from {kept}, up to step {step}")
            text = begin
        records = [record for record in _records(text, self.path, say) if record["step"] <= step]
        self._file.close()
        with one_line_errors(self.path, CheckpointError, _ADVICE):
            write_text(self.path, "".join(as_json(record) + "\n" for record in records), error=None)
            self._file = self.path.open("a", encoding="utf-8")

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            CheckpointError: the disk is full, say.
        """
        if self.enabled:
            with one_line_errors(self.path, CheckpointError, _ADVICE):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self.enabled:
            with contextlib.suppress(OSError):  # what could not be flushed has been reported
                self._file.close()


def read_log(path: Path, say: Say = warnings.warn) -> list[dict[str, Any]]:
    """Read the records of a log; a last line cut short by a crash is left out.

    Args:
        path: the file; one that is not there has no records.
        say: prints a line, where other lines cannot be read and are left out.
    """
    return _records(path.read_bytes(), path, say) if path.exists() else []


def _records(text: bytes, path: Path, say: Say) -> list[dict[str, Any]]:
    """The records of a log's text."""
    records = []
    lines = text.split(b"\n")[:-1]
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str):
            records.append(record)
    if len(records) < len(lines):
        say(f"{path}: {len(lines) - len(records):,} of {len(lines):,} lines cannot be read, and are left out")
    return records


class RunLog:
    """The log of a run: ``log.jsonl``, which two equal runs have alike byte by byte, ``timing.jsonl``, and trackers.

    Trackers cannot forget: after a crash they hold the steps since the last checkpoint twice.

    Args:
        folder: the run folder.
        accelerator: holds the trackers; its first process writes.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator
        main = accelerator.is_main_process
        self._log = JsonlLog(folder / "log.jsonl", enabled=main)
        self._timing = JsonlLog(folder / "timing.jsonl", enabled=main)
        self._refused = False

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
            self._show(tracker.finish)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write a record that depends on nothing but the run.

        Raises:
            CheckpointError: the disk is full, say; so do the methods below.
        """
        self._log.write(kind, step, **values)
        self._track(kind, step, values)

    def write_timing(self, step: int, values: dict[str, float]) -> None:
        """Write a record of speed, waiting and memory."""
        self._timing.write("step", step, **values)
        self._track("timing", step, values)

    def rewind(self, step: int, say: Say, checkpoint: Path | None) -> None:
        """Forget what was written after a step.

        Args:
            step: the last one that stays.
            say: prints a line, where a file is damaged.
            checkpoint: of that step, with a copy of the log; None for none.
        """
        self._log.rewind(step, say, None if checkpoint is None else checkpoint / self._log.path.name)
        self._timing.rewind(step, say)

    def copy_to(self, checkpoint: Path) -> None:
        """Copy the log into a checkpoint, whose validation figures and remarks a run that goes on needs.

        Raises:
            OSError: the disk is full, say.
        """
        if self._log.enabled:
            shutil.copyfile(self._log.path, checkpoint / self._log.path.name)

    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint that relies on it."""
        self._log.sync()
        self._timing.sync()

    def validations(self) -> dict[int, dict[str, Any]]:
        """The validation figures so far, by step."""
        return {record["step"]: record for record in read_log(self._log.path) if record["kind"] == "validation"}

    def steps(self) -> list[dict[str, Any]]:
        """The records of the steps so far."""
        return [record for record in read_log(self._log.path) if record["kind"] == "step"]

    def _track(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self.accelerator.trackers:
            figures = {f"{kind}/{name}": value for name, value in values.items()}
            self._show(lambda: self.accelerator.log(figures, step=step))

    def _show(self, figures: Callable[[], object]) -> None:
        """Give trackers figures. They may raise anything; a run does not end by that, since the log has the figures."""
        try:
            figures()
        except Exception as error:
            if not self._refused:
                say(f"a tracker refuses figures ({error!r}); all of them are in {self._log.path}")
            self._refused = True


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
