"""Nothing that a run reads is unpickled: a file that would run a program does not."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.tiny import TinyModel, TinyRun
from truepair.engine.state.checkpoint import MANIFEST, find_fault
from truepair.engine.state.snapshot import load_weights
from truepair.errors import TruepairError


class Malicious:
    """Makes a folder named ``owned`` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder / "owned"),)


def as_pickle(path: Path, bomb: Malicious) -> None:
    path.write_bytes(pickle.dumps(bomb))


def as_torch(path: Path, bomb: Malicious) -> None:
    torch.save({"optimizer": bomb}, path)


def as_numpy(path: Path, bomb: Malicious) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([bomb], dtype=object), allow_pickle=True)


@pytest.fixture
def stopped(tmp_path: Path) -> TinyRun:
    """A run of one epoch; more are to come."""
    run = TinyRun(tmp_path, loop={"checkpoint_every": 5})
    run.go()
    return run


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("optimizer.pt", as_pickle),
        ("optimizer.pt", as_torch),
        ("sampler.safetensors", as_pickle),
        ("average.safetensors", as_torch),
        ("model.safetensors", as_torch),
        ("model.safetensors", as_pickle),
        ("../../plans/plan-00003.npy", as_numpy),
    ],
)
def test_a_malicious_file_is_an_error_and_not_run(
    stopped: TinyRun, tmp_path: Path, file: str, form: Callable[[Path, Malicious], None]
) -> None:
    folder = stopped.last_checkpoint()
    form(folder / file, Malicious(tmp_path))
    manifest = json.loads((folder / MANIFEST).read_text())
    if file in manifest:  # as one who can write the file can write its hash
        manifest[file] = sha256((folder / file).read_bytes()).hexdigest()
        (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TruepairError):
        stopped.go()
    assert not (tmp_path / "owned").exists()


def test_a_malicious_state_is_damage(stopped: TinyRun, tmp_path: Path) -> None:
    folder = stopped.last_checkpoint()
    as_pickle(folder / "state.json", Malicious(tmp_path))
    digest = sha256((folder / "state.json").read_bytes()).hexdigest()
    assert find_fault(folder) == "state.json does not match its hash"
    (folder / MANIFEST).write_text(json.dumps({"state.json": digest}))
    assert find_fault(folder) == "state.json cannot be read"
    as_pickle(folder / MANIFEST, Malicious(tmp_path))
    assert find_fault(folder) == "no readable manifest"
    stopped.go()
    assert not (tmp_path / "owned").exists()


def test_the_bombs_are_real(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    for form, load in (
        (as_pickle, lambda: pickle.loads(path.read_bytes())),  # noqa: S301
        (as_torch, lambda: torch.load(path, weights_only=False)),
        (as_numpy, lambda: np.load(path, allow_pickle=True)),
    ):
        form(path, Malicious(tmp_path))
        load()
        (tmp_path / "owned").rmdir()


def test_weights_as_a_pickle_are_not_read(stopped: TinyRun, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "model.safetensors").unlink()
    torch.save({"image.weight": Malicious(tmp_path)}, folder / "pytorch_model.bin")
    model: TinyModel = stopped.build().model
    with pytest.raises(TruepairError, match="holds another model"):
        load_weights(model, folder)
    assert not (tmp_path / "owned").exists()
    assert zipfile.is_zipfile(folder / "pytorch_model.bin")
