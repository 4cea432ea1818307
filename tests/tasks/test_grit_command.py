"""``truepair pretrain`` with grouped batches on a part of the bundled sample, stopped from outside and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.processes import Fault, run_in_process, run_ranks
from tests.engine.tiny import remains
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.engine.logs.log import read_log
from truepair.relations.ledger import Ledger

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


def test_a_learned_hardness_learns_alike_where_weights_are_spread(recipe: Path, tmp_path: Path) -> None:
    logs = []
    for spread in ("true", "false"):
        folder = tmp_path / spread
        words = ("train", str(recipe), *FALCON, "--loop.batch_size", "4", "--loop.epochs", "2", "--run-folder")
        words = (*words, str(folder), "--loop.checkpoint_every", "0", "--loop.shard", spread)
        assert run_ranks([Command(words), Command(words)], limit=280) == [0, 0]
        logs.append(read_log(folder / "log.jsonl"))
    rewards, quantiles = (
        [[record[name] for record in log if name in record] for log in logs]
        for name in ("hardness_reward", "hardness_quantile")
    )
    assert len(rewards[0]) == 12 and len(quantiles[0]) == 1
    # Adam makes whole steps of gradients that are zero but for rounding, which spread weights round otherwise.
    assert rewards[0] == pytest.approx(rewards[1], abs=5e-4) and max(map(abs, rewards[0])) > 5e-3
    assert quantiles[0] == pytest.approx(quantiles[1], abs=1e-4)


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


COMMUNITIES = ("--sampler.kind", "communities", "--sampler.communities.skip", "1", "--sampler.communities.size", "4")


def test_communities_go_on_exactly(recipe: Path, whole: Path, tmp_path: Path) -> None:
    words = ("train", str(recipe), *COMMUNITIES, "--run-folder")
    assert run_in_process(Command((*words, str(tmp_path / "whole"))))[0] == 0
    killed = Command((*words, str(tmp_path / "killed")))
    assert run_in_process(killed, Fault("truepair.engine.loop.update:_hardest", 20))[0] == -signal.SIGKILL
    assert run_in_process(killed)[0] == 0
    assert remains(tmp_path / "killed") == remains(tmp_path / "whole")
    plans = [np.load(folder / "plans" / "plan-00001.npy") for folder in (whole, tmp_path / "whole")]
    assert sorted(plans[1].tolist()) == list(range(ROWS)) and plans[0].tolist() != plans[1].tolist()


@pytest.fixture(scope="module")
def suspects(recipe: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[tuple[int, int]]]:
    """A ledger that finds neighbours of GRIT's second plan to match, and the pairs of rows that it means."""
    rows = open_pairs(str(recipe.parent / "part.parquet"), split="train")
    plan = np.load(whole / "plans" / "plan-00001.npy").reshape(-1, 8)
    met = np.stack([plan[:, :-1].ravel(), plan[:, 1:].ravel()], axis=1)  # [84, 2]
    images = torch.from_numpy(rows.image_ids[met[:, 0]])
    first = (np.cumsum(rows.caption_counts) - rows.caption_counts)[met[:, 1]]
    texts = torch.from_numpy(rows.caption_ids[first])
    folder = tmp_path_factory.mktemp("ledger")
    with Ledger(folder) as ledger:
        ledger.record(images, texts, torch.where(torch.arange(len(met)) % 2 == 0, 0.9, 0.2), judge="mined:a")
    return folder, {(min(pair), max(pair)) for pair in met[::2].tolist()}


def met_in(plan: Path) -> set[tuple[int, int]]:
    """The pairs of rows that share a batch of a plan."""
    return {(a, b) for batch in np.load(plan).reshape(-1, 8).tolist() for a in batch for b in batch if a < b}


def test_pairs_above_the_doubt_of_a_ledger_are_kept_apart(
    recipe: Path,
    whole: Path,
    suspects: tuple[Path, set[tuple[int, int]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger, apart = suspects
    words = ("train", str(recipe), "--data.captions", "first", "--sampler.hardness.ledger", str(ledger))
    words += ("--sampler.hardness.below", "0.3")
    for kind, more in (("grit", ()), ("communities", COMMUNITIES)):
        folder = tmp_path / kind
        main([*words, *more, "--run-folder", str(folder)])
        said = " ".join("".join(capsys.readouterr()).split())
        assert f"{ledger}: {len(apart)} pairs of rows match with a probability of 0.3 or more" in said
        for number in (1, 2):
            assert met_in(folder / "plans" / f"plan-{number:05d}.npy").isdisjoint(apart)
        clashes = [record["clashes"] for record in read_log(folder / "log.jsonl") if record["kind"] == "epoch"]
        assert clashes == [0, 0, 0]
    assert met_in(whole / "plans" / "plan-00001.npy") >= apart


def test_a_ledger_that_changes_is_noticed(
    recipe: Path, suspects: tuple[Path, set[tuple[int, int]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = shutil.copytree(suspects[0], tmp_path / "ledger")
    words = ("train", str(recipe), "--data.captions", "first", "--sampler.hardness.ledger", str(ledger))
    words += ("--sampler.hardness.below", "0.3", "--run-folder", str(tmp_path / "run"))
    assert run_in_process(Command(words), Fault("truepair.engine.loop.update:_hardest", 20))[0] == -signal.SIGKILL
    with Ledger(ledger) as more:
        more.record(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.9]), judge="mined:a")
    with pytest.raises(SystemExit):
        main(words)
    assert f"the ledger {ledger}: not what the run in {tmp_path / 'run'} began with" in capsys.readouterr().err


def test_verdicts_of_whom(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, reason in (
        (["--sampler.hardness.below", "0.3"], "give sampler.hardness.ledger, the ledger of truepair mine, or an ecm"),
        (["--sampler.hardness.ledger", "mined"], "sampler.hardness.below from where on they are kept apart; give both"),
        (["--sampler.hardness.below", "0"], "sampler.hardness.below is 0.0; give a number above 0, up to 1"),
        (
            ["--sampler.hardness.below", "0.3", "--sampler.hardness.ledger", "m", "--sampler.kind", "random"],
            "sampler.hardness.below is for grouped batches; set sampler.kind to grit or communities",
        ),
        (["--sampler.communities.size", "4"], "sampler.communities is for sampler.kind communities"),
        ([*COMMUNITIES[:2], "--sampler.communities.size", "3"], "size 3 does not divide a batch of 8"),
        (
            ["--sampler.hardness.below", "0.3", "--sampler.hardness.ledger", str(tmp_path / "none")],
            "There is no ledger in",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["train", str(recipe), "--run-folder", str(tmp_path / "run"), *options])
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
    said = process.communicate(timeout=240)[1]
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
