"""Captioning by a language model on two processes is the run on one, with weights spread or not, and with LoRA."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.processes import run_ranks
from tests.models.tiny_language import save_blip2_language
from tests.tasks.test_captioning import write_recipe
from truepair.cli.main import main
from truepair.data.open import open_pairs

STEADY = ["--data.test_split", "", "--data.validation_split", "", "--model.transform.size", "0", "--loop.epochs", "2"]
STEADY += ["--model.transform.normalisation", "encoder", "--model.transform.crop_scale", "[1.0, 1.0]"]
STEADY += ["--model.freeze_image", "true", "--model.transform.flip", "0", "--loop.cpu", "true", "--loop.log_every", "1"]
LORA = ["--model.language.lora.rank", "2", "--model.language.lora.targets", "[c_attn, c_fc]"]


@dataclass(frozen=True)
class CaptionRun:
    """Training on captions of one to nine words, so that processes have different numbers of tokens."""

    recipe: Path
    checkpoint: Path
    folder: Path
    options: tuple[str, ...]

    def go(self) -> None:
        words = ["--run-folder", str(self.folder), "--model.checkpoint", str(self.checkpoint)]
        main(["train", "captioning", str(self.recipe), *words, *STEADY, *self.options])


@pytest.mark.parametrize("lora", [LORA, []], ids=["lora", "rests"])
def test_the_same_on_two_processes(tmp_path: Path, lora: list[str]) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("pycocoevalcap")
    recipe, pairs = write_recipe(tmp_path), tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["caption"] = " ".join([row["caption"], *["red square"] * (number % 4)])
    pairs.write_text("\n".join(map(json.dumps, rows)))
    whole = save_blip2_language(tmp_path / "whole", open_pairs(pairs))
    config = json.loads((whole / "config.json").read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (whole / "config.json").write_text(json.dumps(config))
    runs = {
        name: CaptionRun(recipe, whole, tmp_path / name, (*lora, "--loop.batch_size", batch, "--loop.shard", shard))
        for name, batch, shard in (("one", "8", "false"), ("two", "4", "false"), ("spread", "4", "true"))
    }
    runs["one"].go()
    for name in ("two", "spread"):
        assert run_ranks([runs[name]] * 2, limit=300) == [0, 0]
    start, *weights = (
        load_file(folder / "model.safetensors") for folder in (whole, *(r.folder / "model" for r in runs.values()))
    )
    assert sum(not torch.equal(start[name], weights[0][name]) for name in start) > 10
    for found in weights[1:]:
        for name, expected in weights[0].items():
            if name.endswith("key.bias"):  # softmax does not see it: rounding alone
                continue
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=2e-5, msg=name)
