"""The real command under torchrun and accelerate: a process dies, all are started again, the result is equal."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.test_commands import MODEL
from tests.engine.processes import free_port
from tests.engine.tiny import remains
from tests.tasks.task_sets import write_checkpoint
from tests.tasks.test_downstream import vqa_recipe

HERE = Path(__file__).parent

SAVE, STEP = "truepair.engine.state.checkpoint:CheckpointStore.save", "truepair.engine.loop.update:OptimizerStep.take"
READ, MET = "truepair.tasks.pretraining:build_tables", "truepair.tasks.pretraining:join_processes"
MEASURE, CONCLUDE = (f"truepair.tasks.retrieval:RetrievalTask.{name}" for name in ("figures", "evaluate"))

Death = tuple[int, str, int, bool]

ELASTIC = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1"]


LIMIT = 900  # seconds, of a busy machine


def launchers(kind: str) -> list[list[str]]:
    """The calls that start two processes, one for each machine."""
    port = str(free_port())
    if kind == "torchrun":
        return [[*ELASTIC, "--master-port", port, "--nproc-per-node", "2"]]
    if kind == "standalone":
        return [[*ELASTIC, "--standalone", "--nproc-per-node", "2"]]
    if kind == "machines":
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test"]
        return [[*ELASTIC, "--nnodes", "2", "--nproc-per-node", "1", *meeting]] * 2
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return [[*launch, "--main_process_port", port]]


@pytest.fixture(scope="module")
def recipe(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "squares.yaml"
    settings = {
        "data": {
            "sources": [str(squares / "pairs.jsonl")],
            "validation_split": "test",
            "transform": {"size": 16, "rand_augment_ops": 0},
        },
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {"options": MODEL},
        "relations": {"ledger": True},
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 2},
        "loop": {"epochs": 4, "batch_size": 4, "workers": 0, "log_every": 1, "checkpoint_every": 2, "cpu": True},
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def run(launchers: Sequence[Sequence[str]], folder: Path, *words: str, deaths: Sequence[Death] = ()) -> list[str]:
    """Call the command on a machine or on several; returns the lines it said, once all deaths have happened."""
    plan, marks = folder / "plan.json", folder / "plan.deaths"
    plan.write_text(json.dumps(deaths))
    said = [folder / f"machine-{number}.txt" for number in range(len(launchers))]
    started = []
    for launcher, file in zip(launchers, said, strict=True):
        restarts = [f"--max{'_' if 'accelerate.commands.launch' in launcher else '-'}restarts", str(len(deaths))]
        call = [*launcher, *restarts, str(HERE / "mortal_command.py"), str(plan), *words]
        with file.open("w") as output:
            process = subprocess.Popen(call, cwd=folder, env=environment(), stdout=output, stderr=output)
        started.append(process)
    try:
        assert [process.wait(LIMIT) for process in started] == [0] * len(started), [f.read_text()[-3000:] for f in said]
    finally:
        for process in started:
            process.terminate()  # torchrun ends what it started
    assert (len(marks.read_text()) if marks.exists() else 0) == len(deaths)
    return [line for file in said for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    run(launchers("torchrun"), folder, "train", str(recipe), "--run-folder", "run")
    return left(folder / "run")


def left(folder: Path) -> dict[str, bytes]:
    return remains(folder) | {"figures": (folder / "retrieval.json").read_bytes()}


def resumed(lines: Sequence[str]) -> list[str]:
    return [line.rpartition("/")[2] for line in lines if line.startswith("going on from")]


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_torchrun_brings_a_run_back(recipe: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    lines = run(
        launchers("torchrun"), tmp_path, "train", str(recipe), "--run-folder", "run", deaths=[(1, STEP, 4, True)]
    )
    assert resumed(lines) == ["step-00000002"]
    said = "truepair: process 0 of 2 lost the connection to another one, which has ended: see what that one said"
    assert any(line.startswith(said) for line in lines)
    assert not any("Traceback" in line for line in lines)
    assert left(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize(
    ("kind", "deaths"),
    {
        "torchrun": [(0, READ, 1, True), (1, SAVE, 2, True), (0, MEASURE, 1, False)],
        "standalone": [(1, MET, 1, False), (0, STEP, 3, True), (0, CONCLUDE, 1, False)],
        "accelerate": [(0, MET, 1, True), (1, STEP, 4, False)],
        "machines": [(1, STEP, 4, True), (0, SAVE, 1, True)],
    }.items(),
)
def test_ten_deaths_change_nothing(
    kind: str, deaths: list[Death], recipe: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    run(launchers(kind), tmp_path, "train", str(recipe), "--run-folder", "run", deaths=deaths)
    assert left(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_fine_tuning_is_brought_back_too(tmp_path: Path) -> None:
    settings, start = vqa_recipe(tmp_path), write_checkpoint(tmp_path / "start")
    words = ["finetune", "vqa", str(settings), "--model.checkpoint", str(start)]
    words += ["--loop.epochs", "4", "--loop.batch_size", "4", "--loop.checkpoint_every", "2"]
    run(launchers("standalone"), tmp_path, *words, "--run-folder", "whole")
    lines = run(launchers("standalone"), tmp_path, *words, "--run-folder", "run", deaths=[(1, STEP, 5, True)])
    assert resumed(lines) == ["step-00000004"]
    assert remains(tmp_path / "run") == remains(tmp_path / "whole")
    answers = "vqa_results.json"
    assert (tmp_path / "run" / answers).read_bytes() == (tmp_path / "whole" / answers).read_bytes()
