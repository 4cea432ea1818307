"""Two ranks: one writer, equal steps, and a stop that all agree on."""

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.engine.processes import Fault, run_in_process, run_ranks
from tests.engine.tiny import TinyRun, remains
from truepair.engine.logs.log import read_log

HALF = {"batch_size": 2}  # of one rank: the same global batch as in the runs on one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    assert run_ranks([TinyRun(folder, loop=HALF)] * 2) == [0, 0]
    return folder


def test_ranks_share_a_run(whole: Path, tmp_path: Path) -> None:
    records = read_log(whole / "log.jsonl")
    assert [record["step"] for record in records if record["kind"] == "step"] == list(range(1, 16))
    assert len([record for record in records if record["kind"] == "validation"]) == 3
    assert len({path.name for path in whole.iterdir()}) == 5
    assert sorted(np.load(whole / "plans" / "plan-00001.npy").tolist()) == list(range(36))


def test_one_rank_gets_the_signal_and_all_stop(whole: Path, tmp_path: Path) -> None:
    run = TinyRun(tmp_path, loop=HALF)
    fault = Fault("truepair.engine.loop.update:_hardest", 7, kind=signal.SIGTERM)
    assert run_ranks([run, run], [None, fault]) == [143, 143]
    assert run.last_checkpoint().name == "step-00000007"
    assert run_ranks([run, run]) == [0, 0]
    assert remains(tmp_path) == remains(whole)


def test_a_bad_number_on_one_rank_skips_the_step_on_all(tmp_path: Path) -> None:
    runs = [TinyRun(tmp_path, loop=HALF | {"on_non_finite": "skip"}, poisoned_epoch=epoch) for epoch in (1, 1)]
    assert run_ranks(runs) == [0, 0]
    (step,) = {record["step"] for record in read_log(tmp_path / "bad_batches.jsonl")}
    assert {record["step"] for record in read_log(tmp_path / "bad_batches-1.jsonl")} == {step}
    ids = [record["index"] for name in ("", "-1") for record in read_log(tmp_path / f"bad_batches{name}.jsonl")]
    assert sum(5 in batch for batch in ids) == 1
    kinds = [record["kind"] for record in read_log(tmp_path / "log.jsonl") if record["step"] == step]
    assert kinds[0] == "skipped"


def test_a_run_may_go_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    two, one = TinyRun(tmp_path, loop=HALF), TinyRun(tmp_path)
    fault = Fault("truepair.engine.loop.update:_hardest", 7, kind=signal.SIGTERM)
    assert run_ranks([two, two], [fault, None]) == [143, 143]
    assert run_in_process(one)[0] == 0
    steps = [record["step"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert steps == list(range(1, 16))
