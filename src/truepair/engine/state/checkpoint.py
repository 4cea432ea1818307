"""Checkpoints that are either whole or not there: written aside, synced, hashed, renamed."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from truepair.errors import CheckpointError, ConfigError
from truepair.files import move_folder, one_line_errors, remove_folder, sync

MANIFEST = "manifest.json"

STATE = "state.json"

_NAME = re.compile(r"step-(\d{8,})")  # a copy that a user made has another: step-00000012-old, say

ADVICE = "free some space and run the same command again, earlier checkpoints are untouched"


class CheckpointStore:
    """The checkpoints of one run: ``step-00001200/`` folders, the newest ``keep`` of them and the best one.

    A checkpoint is a folder with the model and tokenizer (as ``save_pretrained`` writes them), ``optimizer.pt``
    (tensors, read with ``weights_only``), what the training step and the sampler keep, ``state.json`` and
    ``manifest.json`` (SHA-256 of every file, written last).

    Args:
        folder: where the checkpoints lie; all ranks see it.
        keep: how many of the newest to keep.
        main: whether this rank makes and prunes folders; one rank does.
        meet: waits until all ranks have called it.
    """

    def __init__(
        self, folder: Path, keep: int = 2, *, main: bool = True, meet: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.main = main
        self.meet = meet
        self.best: int | None = None

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step; all ranks call this together.

        Args:
            step: finished optimizer steps.
            write: writes this rank's files into the folder it is given.
            state: JSON values to keep beside them.

        Returns:
            The finished folder.

        Raises:
            CheckpointError: the disk is full, say. Earlier checkpoints stay as they are.
        """
        final = self.path(step)
        aside = self.folder / f".{final.name}.partial"  # one that all ranks write into, unlike files.writing_folder
        with one_line_errors(final, CheckpointError, ADVICE):
            if self.main:
                self._clear_leftovers()
                aside.mkdir(parents=True)
            self.meet()
            try:
                write(aside)
                self.meet()
                if self.main:
                    (aside / STATE).write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")
                    seal(aside)
                    move_folder(aside, final)
                    self._remove_damaged(step)
            except Exception:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        self.prune()
        self.meet()
        return final

    def prune(self) -> None:
        """Remove all but the newest checkpoints and the ``best`` one."""
        if not self.main:
            return
        for old in self._folders()[: -self.keep]:
            if _step_of(old) != self.best:
                remove_folder(old)

    def newest(self, on_damage: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Find the newest whole checkpoint and its state; name each damaged one to ``on_damage`` and pass over it.

        Raises:
            CheckpointError: there are checkpoints, but no whole one; to start anew would wipe the run's log.
        """
        folders = self._folders()
        for folder in reversed(folders):
            fault = find_fault(folder)
            if fault is None:
                state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
                return folder, state
            before = "; going back to the one before it" if folder != folders[0] else ""
            on_damage(f"checkpoint {folder} is damaged ({fault}){before}")
        if folders:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole; remove that folder to start anew")
        return None

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def _folders(self) -> list[Path]:
        return checkpoints_in(self.folder)

    def _remove_damaged(self, step: int) -> None:
        """Remove checkpoints of later steps: the run went back behind them because they are damaged.

        Pruning would take them for the newest, and a new one for an old one.
        """
        for later in self._folders():
            if _step_of(later) > step:
                remove_folder(later)

    def _clear_leftovers(self) -> None:
        """Remove what a process that was killed left half-written or half-removed."""
        for leftover in self.folder.glob(".step-*"):
            if _NAME.fullmatch(leftover.stem.removeprefix(".")) and leftover.suffix in (".partial", ".removed"):
                shutil.rmtree(leftover, ignore_errors=True)


class CheckpointSchedule:
    """Steps and minutes between checkpoints.

    Args:
        every: steps between two checkpoints.
        last: the last step of the run, which has one as well.
        minutes: after which there is one between the regular ones; 0 for never.

    Attributes:
        step: step of the last checkpoint; -1 before the first.
    """

    def __init__(self, *, every: int, last: int, minutes: float) -> None:
        self.every = every
        self.last = last
        self.seconds = 60 * minutes
        self.step = -1
        self._time = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a step ends with a checkpoint."""
        return step % self.every == 0 or step == self.last

    def minutes_are_over(self) -> bool:
        """Whether the last checkpoint is too long ago; clocks differ, so one rank decides."""
        return bool(self.seconds) and time.monotonic() - self._time >= self.seconds

    def note(self, step: int) -> None:
        """Take note that there is a checkpoint of a step."""
        self.step = step
        self._time = time.monotonic()


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None when every file matches the manifest."""
    damage = find_damage(folder)
    if damage is not None:
        return damage
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE} cannot be read"
    return None


def find_damage(folder: Path) -> str | None:
    """Return which file of a folder does not match its manifest, or None."""
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "no readable manifest"
    for name, digest in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _sha256(path) != digest:
            return f"{name} does not match its hash"
    return None


def require_same_plan(run_folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run whose plan was another one.

    Raises:
        ConfigError: something differs.
    """
    changed = [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise ConfigError(
            f"{run_folder} holds a run of another plan ({'; '.join(changed)}); give another --run-folder, or the old "
            "settings"
        )


def has_begun(run_folder: Path) -> bool:
    """Whether a run has left something to go on from: a checkpoint, or its finished model."""
    return (run_folder / "model").exists() or bool(checkpoints_in(run_folder / "checkpoints"))


def notes_identity(run_folder: Path) -> bool:
    """Whether a checkpoint of a run says what the run is of; those of older versions do not."""
    for folder in reversed(checkpoints_in(run_folder / "checkpoints")):
        try:
            return "identity" in json.loads((folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a damaged one, which the run passes over
            continue
    return False


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints that lie in a folder, the oldest first; what has another name is not the run's."""
    return sorted(
        (path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()), key=_step_of
    )


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def seal(folder: Path) -> None:
    """Sync every file to disk, then write the manifest of their hashes."""
    manifest = sums_of(folder)
    for name in manifest:
        sync(folder / name)
    target = folder / MANIFEST
    target.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sync(target)
    sync(folder)


def sums_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder but its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
