"""A disk that is full: one line that says so, the former checkpoint intact, and the same run once there is space."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.processes import Fault
from tests.engine.tiny import TinyRun, remains
from truepair.engine.state.checkpoint import find_fault
from truepair.errors import CheckpointError

# What is next to be written when the last byte is gone; the first checkpoint, at step 3, is there by then.
MOMENTS = {
    "the model": ("truepair.engine.state.snapshot:Snapshot.write_model", 2),
    "the optimizer": ("truepair.engine.state.snapshot:save_optimizer", 2),
    "the sampler": ("truepair.sampling.grouped:GroupedBatchSampler.state_dict", 2),
    "the average": ("truepair.engine.state.snapshot:save_file", 4),
    "the manifest": ("truepair.engine.state.checkpoint:seal", 2),
    "the log": ("truepair.engine.logs.log:JsonlLog.write", 9),
    "the plan": ("truepair.sampling.plan:PlanFolder.write", 1),
    "the final model": ("truepair.engine.loop.loop:writing_folder", 1),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Filling(Fault):
    """Takes the last byte of the disk instead of sending a signal."""

    folder: Path

    def strike(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves whose disk was large enough."""
    run = TinyRun(tmp_path_factory.mktemp("whole"))
    run.go()
    return remains(run.folder)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_full_disk(moment: str, small_disk: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    run = TinyRun(small_disk / "run")
    filling = _Filling(*MOMENTS[moment])
    object.__setattr__(filling, "folder", small_disk)
    with monkeypatch.context() as patch:
        filling.arm(patch.setattr)
        with pytest.raises(CheckpointError, match=r"(could not|cannot) write .*(No space left|free)"):
            run.go()
    left = sorted((run.folder / "checkpoints").iterdir())
    assert all(find_fault(folder) is None for folder in left)
    assert left[0].name >= "step-00000003"
    (small_disk / "filler").unlink()
    run.go()
    assert remains(run.folder) == whole
