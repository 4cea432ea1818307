"""The run's diary: one JSON object a line, appended as the run goes."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Self

from truepair.errors import CheckpointError


class RunLog:
    """Append-only JSONL log of a run.

    A resumed run first forgets what was written after the checkpoint it starts from, so that the file reads as if the
    run had never been interrupted.

    Args:
        path: the file, created with its folder when missing.
        enabled: write at all; on for one rank of a run.
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self.path = path
        self.enabled = enabled
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one record: what it is (``kind``), the number of finished steps, and any JSON values.

        Raises:
            CheckpointError: the disk is full, say.
        """
        if not self.enabled:
            return
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def rewind(self, step: int) -> None:
        """Forget every record of a step later than ``step``, and a half-written last line."""
        if not self.enabled:
            return
        kept = [record for record in read_log(self.path) if record["step"] <= step]
        self._file.close()
        aside = self.path.with_suffix(".tmp")
        try:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            aside.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if self.enabled:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self.enabled:
            with contextlib.suppress(OSError):  # what could not be flushed has been reported
                self._file.close()


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"could not write {path}: {error.strerror or error}; free some space and run the same command again"
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the records of a log; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records
