"""Whole runs whose weights are spread over two processes: same losses, same files on disk, resumed either way."""

import shutil
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.processes import Fault, run_ranks
from tests.tasks.squares_run import SquaresRun
from truepair.engine.logs.log import read_log
from truepair.methods.momentum import MomentumConfig

LOOP = {"average_decay": 0.9, "micro_batch": 1, "accumulate": 2, "batch_size": 2, "gradient_checkpointing": True}
MOMENTUM = MomentumConfig(queue_size=8, decay=0.5)
# Softmax does not see the bias of keys: what moves it is rounding, which Adam makes large.
NO_GRADIENT = ("key.bias", "k_proj.bias")
IN_EPOCH_2 = Fault("truepair.engine.loop.update:OptimizerStep.take", 8, SIGKILL)  # of 10 steps, 5 an epoch


def go(squares: Path, folder: Path, *, shard: bool, fault: Fault | None = None) -> Path:
    run = SquaresRun(squares, folder, ranks=2, loop=LOOP | {"shard": shard}, momentum=MOMENTUM)
    codes = run_ranks([run] * 2, [fault, fault], limit=300)
    assert codes == [0 if fault is None else -SIGKILL] * 2
    return folder


def figures(folder: Path) -> list[dict[str, float]]:
    """What was logged of steps and evaluations."""
    records = [record for record in read_log(folder / "log.jsonl") if record["kind"] in ("step", "validation")]
    return [{name: value for name, value in record.items() if name != "kind"} for record in records]


def tensors(folder: Path) -> dict[str, Tensor]:
    """All that the last checkpoint and the model folder hold."""
    last = max((folder / "checkpoints").iterdir())
    files = [folder / "model/model.safetensors", *sorted(last.rglob("*.safetensors"))]
    found = {f"{file.name}: {name}": value for file in files for name, value in load_file(file).items()}
    averages = torch.load(last / "optimizer.pt", weights_only=True)["optimizer"]["state"]
    return found | {f"{key}: {name}": value for key, own in averages.items() for name, value in own.items()}


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two processes with all weights on each."""
    return go(squares, tmp_path_factory.mktemp("whole"), shard=False)


@pytest.fixture(scope="module")
def spread(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with its weights spread."""
    return go(squares, tmp_path_factory.mktemp("spread"), shard=True)


@pytest.fixture(scope="module")
def stopped(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed in its second epoch."""
    return go(squares, tmp_path_factory.mktemp("stopped"), shard=True, fault=IN_EPOCH_2)


def close(found: Path, expected: Path) -> None:
    assert len(figures(expected)) == 10 + 2
    for one, other in zip(figures(found), figures(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    left, wanted = tensors(found), tensors(expected)
    assert left.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.endswith(NO_GRADIENT):
            continue
        torch.testing.assert_close(left[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_spread_run_is_the_run_with_whole_weights(spread: Path, whole: Path) -> None:
    close(spread, whole)


def test_a_killed_run_goes_on_bit_for_bit(squares: Path, stopped: Path, tmp_path: Path, spread: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    go(squares, tmp_path / "run", shard=True)
    assert figures(tmp_path / "run") == figures(spread)
    found = tensors(tmp_path / "run")
    for name, value in tensors(spread).items():
        assert torch.equal(found[name], value), name


def test_a_spread_run_goes_on_with_whole_weights(squares: Path, stopped: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    go(squares, tmp_path / "run", shard=False)
    close(tmp_path / "run", whole)
