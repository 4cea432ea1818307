"""``truepair pretrain`` with GRIT batches on a part of the bundled sample, stopped from outside and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.engine.processes import Fault, run_in_process
from tests.engine.tiny import remains
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.engine.logs.log import read_log

ROWS = 96


FALCON = ("--sampler.hardness.learned.points", "8", "--sampler.hardness.learned.learning_rate", "0.01")


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]

    def go(self) -> None:
        main(self.words)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grit")
    train = open_pairs("sample", split="train")
    train.select(range(ROWS)).rows.to_parquet(folder / "part.parquet")
    encoder = {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1}
    options = {"image_encoder": encoder, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    options |= {"text_layers": 1, "fusion_layers": 1, "embed_dim": 16, "initializer_range": 0.1}
    settings = {
        "data": {
            "sources": [str(folder / "part.parquet")],
            "validation_split": "",
            "test_split": "",
            "transform": {"size": 16, "rand_augment_ops": 0},
        },
        "text": {"vocab_size": 300, "max_length": 10},
        "model": {"options": options},
        "sampler": {"kind": "grit", "search_space": 40, "queue_size": 80},
        "optimizer": {"learning_rate": 0.0001, "warmup_steps": 2},
        "loop": {"epochs": 3, "batch_size": 8, "workers": 0, "log_every": 1, "checkpoint_every": 7, "cpu": True},
    }
    path = folder / "grit.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    command = Command(("pretrain", str(recipe), "--run-folder", str(folder)))
    assert run_in_process(command)[0] == 0
    return folder


def test_a_run_that_is_killed_goes_on_exactly(recipe: Path, whole: Path, tmp_path: Path) -> None:
    command = Command(("pretrain", str(recipe), "--run-folder", str(tmp_path)))
    for call in (16, 13):  # at step 16, then at step 27: epochs have 12
        fault = Fault("truepair.engine.loop.update:_hardest", call)
        assert run_in_process(command, fault)[0] == -signal.SIGKILL
    assert run_in_process(command)[0] == 0
    assert remains(tmp_path) == remains(whole)


def test_a_learned_hardness_goes_on_exactly(recipe: Path, tmp_path: Path) -> None:
    words = ("train", str(recipe), "--run-folder")
    assert run_in_process(Command((*words, str(tmp_path / "whole"), *FALCON)))[0] == 0
    killed = Command((*words, str(tmp_path / "killed"), *FALCON))
    assert run_in_process(killed, Fault("truepair.engine.loop.update:_hardest", 20))[0] == -signal.SIGKILL
    assert run_in_process(killed)[0] == 0
    assert remains(tmp_path / "killed") == remains(tmp_path / "whole")
    records = read_log(tmp_path / "whole" / "log.jsonl")
    quantiles = [record.get("hardness_quantile") for record in records if record["kind"] == "epoch"]
    assert quantiles[0] is None and 0 < quantiles[1] < 1 and quantiles[2] != quantiles[1]
    gained = ["hardness_reward" in record for record in records if record["kind"] == "step"]
    assert gained == [False] * 12 + [True] * 24


def test_a_learned_hardness_needs_something_to_learn_from(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, reason in (
        (["--objectives.mlm.weight", "0"], "without MLM learns from validation pairs, and there are none"),
        (["--objectives.mlm.start_epoch", "3"], "give objectives.mlm.weight and a later end, or a fixed"),
        (["--sampler.hardness.quantile", "0.5"], "drop one of both"),
        (["--sampler.kind", "random"], "sampler.hardness.learned is for grouped batches; set sampler.kind to grit"),
        (["--sampler.hardness.learned.start", "1"], "sampler.hardness.learned.start is 1; give a number below 1"),
    ):
        with pytest.raises(SystemExit):
            main(["train", str(recipe), "--run-folder", str(tmp_path), *FALCON, *options])
        assert reason in capsys.readouterr().err


def test_sigterm_from_outside(recipe: Path, whole: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from truepair.cli.main import main; main()", "pretrain", str(recipe)]
    call += ["--run-folder", str(tmp_path), "--loop.workers", "1"]
    # Sums over another number of threads have other last bits; the runs it is compared with have one thread.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=environment)
    while len(read_log(tmp_path / "log.jsonl")) < 10 and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "stopped by a signal after step" in said
    assert "GRIT on 96 pairs: search_space 40 -> 32, queue_size 80 -> 80" in said
    assert run_in_process(Command(("pretrain", str(recipe), "--run-folder", str(tmp_path))))[0] == 0
    assert remains(tmp_path) == remains(whole)


def test_the_log_tells_how_false_the_negatives_are(whole: Path) -> None:
    records = [record for record in read_log(whole / "log.jsonl") if record["kind"] == "epoch"]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    groups = open_pairs("sample", split="train").rows["group"][:ROWS]
    shared = sum(groups.count(group) - 1 for group in groups) / (ROWS * (ROWS - 1))
    for record in records:
        assert record["random_false_negative_rate"] == pytest.approx(shared)
        assert record["clashes"] == 0
        assert -1 <= record["hardest_similarity"] <= 1
    plan = np.load(whole / "plans" / "plan-00001.npy").reshape(-1, 8)
    partners = [(a, b) for batch in plan for a in batch for b in batch if a != b]
    rate = sum(groups[a] == groups[b] for a, b in partners) / len(partners)
    assert records[1]["false_negative_rate"] == pytest.approx(rate)
