"""Checkpoints that are either whole or not there: written aside, synced, hashed, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from truepair.errors import CheckpointError

MANIFEST = "manifest.json"


class CheckpointStore:
    """The checkpoints of one run: ``step-00001200/`` folders, the newest ``keep`` of them.

    A checkpoint is a folder with the model and tokenizer (as ``save_pretrained`` writes them), ``optimizer.pt``
    (tensors, read with ``weights_only``), ``state.json`` and ``manifest.json`` (SHA-256 of every file, written last).

    Args:
        folder: where the checkpoints lie.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step.

        Args:
            step: finished optimizer steps.
            write: writes the tensors into the folder it is given.
            state: JSON values to keep beside them.

        Returns:
            The finished folder.
        """
        final = self.folder / f"step-{step:08d}"
        aside = self.folder / f".{final.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            write(aside)
            (aside / "state.json").write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")
            _seal(aside)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(
                f"could not write {final}: {error.strerror or error}; free some space and run the same command again, "
                "earlier checkpoints are untouched"
            ) from error
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(self.folder)
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self, on_damage: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Find the newest whole checkpoint and its state; name each damaged one to ``on_damage`` and pass over it."""
        for folder in reversed(self._folders()):
            fault = find_fault(folder)
            if fault is None:
                return folder, json.loads((folder / "state.json").read_text(encoding="utf-8"))
            on_damage(f"checkpoint {folder} is damaged ({fault}); going back to the one before it")
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None when every file matches the manifest."""
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


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write the optimizer's state into a checkpoint folder."""
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read the optimizer's state back; only tensors and plain values are ever unpickled.

    Raises:
        CheckpointError: the state belongs to other parameters.
    """
    state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(
            f"{folder} was written by a run with other trainable parameters; give another run folder"
        ) from error


def _seal(folder: Path) -> None:
    """Sync every file to disk, then write the manifest of their hashes."""
    manifest = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _sync(path)
            manifest[str(path.relative_to(folder))] = _sha256(path)
    target = folder / MANIFEST
    target.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(target)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
