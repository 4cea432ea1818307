"""Runs of transformers models whose weights are spread over two processes: the same run, the same folder at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from tests.engine.processes import run_ranks
from tests.models.dual.families import FAMILIES
from tests.tasks.own_pairs import write_list
from truepair.cli.arguments import find_recipe, read_recipe
from truepair.engine.logs.log import read_log
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.pretraining import pretrain

WORDS = ["--loop.epochs", "2", "--loop.batch_size", "4", "--loop.micro_batch", "2", "--loop.workers", "0"]
WORDS += ["--loop.log_every", "1", "--loop.cpu", "true", "--loop.gradient_checkpointing", "true"]
WORDS += ["--loop.average_decay", "0.9", "--optimizer.learning_rate", "1e-3", "--optimizer.warmup_steps", "1"]
WORDS += ["--momentum.queue_size", "8", "--momentum.decay", "0.5"]


@dataclass(frozen=True)
class HubRun:
    """A run of the recipe `clip` over two processes.

    Attributes:
        pairs: The user's list.
        checkpoint: The model.
        folder: Of the run.
        shard: Whether the weights are spread.
    """

    pairs: Path
    checkpoint: Path
    folder: Path
    shard: bool

    def go(self) -> None:
        words = ["--data.sources", f"[{self.pairs}]", "--model.checkpoint", str(self.checkpoint), *WORDS]
        words += ["--loop.shard", str(self.shard).lower()]
        recipe = read_recipe(PretrainRecipe, [find_recipe("clip")], words, command="test")
        pretrain(recipe, self.folder, lambda _: None)


def figures(folder: Path) -> list[dict[str, Any]]:
    records = [record for record in read_log(folder / "log.jsonl") if record["kind"] in ("step", "validation")]
    return [{name: value for name, value in record.items() if name != "kind"} for record in records]


@pytest.mark.parametrize("name", ["siglip_2", "vit_and_bert"])
def test_a_spread_run_is_the_run_with_whole_weights(squares: Path, tmp_path: Path, name: str) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    family = next(family for family in FAMILIES if family.name == name)
    checkpoint = family.save(tmp_path / "start", dropout=False)
    runs = [HubRun(pairs, checkpoint, tmp_path / f"shard_{shard}", shard) for shard in (False, True)]
    for run in runs:
        assert run_ranks([run] * 2, limit=300) == [0, 0]
    whole, spread = runs
    assert len(figures(whole.folder)) > 4
    for one, other in zip(figures(spread.folder), figures(whole.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    weights, wanted = (load_file(run.folder / "model/model.safetensors") for run in (spread, whole))
    started = load_file(checkpoint / "model.safetensors")
    assert weights.keys() == wanted.keys() == started.keys()
    assert sum(not torch.equal(weights[key], started[key]) for key in started) > len(started) / 2
    for key, value in wanted.items():
        if not key.endswith(("key.bias", "k_proj.bias", "in_proj_bias")):  # softmax does not see them: rounding alone
            torch.testing.assert_close(weights[key], value, rtol=1e-2, atol=5e-4, msg=key)
    AutoModel.from_pretrained(spread.folder / "model")
