"""Recipes of methods laid under `clip`: every one trains a CLIP on a user's list, and the CLIP goes home as itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel

from tests.engine.processes import run_ranks
from tests.judges.tiny_judges import save_albef
from tests.tasks.own_pairs import save_clip, write_list
from truepair.cli.arguments import find_recipe, read_recipe
from truepair.data.open import open_pairs
from truepair.engine.logs.log import read_log
from truepair.errors import ConfigError
from truepair.judges.calibration import fit_dual_calibration
from truepair.judges.dual import DualFeatures
from truepair.methods.recipe import PretrainRecipe
from truepair.models.open import open_model
from truepair.relations.ledger import Ledger, read_verdicts
from truepair.tasks.pretraining import pretrain

SHORT = ["--loop.epochs", "2", "--loop.batch_size", "8", "--loop.workers", "0", "--loop.log_every", "1"]
SHORT += ["--loop.cpu", "true", "--optimizer.learning_rate", "1e-3", "--optimizer.warmup_steps", "1"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="module")
def pairs(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(squares, tmp_path_factory.mktemp("pairs") / "pairs.csv")


def recipe_of(recipes: list[str], pairs: Path, checkpoint: Path, *more: str) -> PretrainRecipe:
    words = ["--data.sources", f"[{pairs}]", "--model.checkpoint", str(checkpoint), *SHORT, *more]
    return read_recipe(PretrainRecipe, [find_recipe(name) for name in recipes], words, command="test")


def train(recipe: PretrainRecipe, folder: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    """What a run says, and the weights it leaves."""
    said: list[str] = []
    pretrain(recipe, folder, said.append)
    return said, CLIPModel.from_pretrained(folder / "model").state_dict()


def steps(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == "step"]


def test_plain(clip: Path, pairs: Path, tmp_path: Path) -> None:
    said, weights = train(recipe_of(["clip"], pairs, clip), tmp_path)
    before = CLIPModel.from_pretrained(clip).state_dict()
    assert sum(not torch.equal(weights[name], before[name]) for name in before) > len(before) / 2
    assert any("its own image processor and tokenizer, captions of up to 12 tokens" in line for line in said)
    figures = json.loads((tmp_path / "retrieval.json").read_text())
    assert figures["images"] == 12 and set(figures["ways"]) == {"similarity"}
    assert {"itc", "temperature"} <= steps(tmp_path)[0].keys()


def test_grit_batches(clip: Path, pairs: Path, tmp_path: Path) -> None:
    train(recipe_of(["grit", "clip"], pairs, clip, "--loop.epochs", "3"), tmp_path)
    assert "hardest_similarity" in json.dumps(steps(tmp_path) + list(read_log(tmp_path / "log.jsonl")))


def test_a_mined_ledger_makes_matches(clip: Path, pairs: Path, tmp_path: Path) -> None:
    table = open_pairs(pairs).split("train")
    ids = [row[0] for row in table.rows["caption_ids"]]
    with Ledger(tmp_path / "mined") as ledger:
        rows = torch.arange(len(table) - 1)
        images = torch.as_tensor(table.image_ids[: len(table) - 1])
        ledger.record(images, torch.tensor(ids[1:]), torch.full((len(rows),), 0.9), judge="mined:test")
    rule = f"{{detector: recorded, ledger: {tmp_path / 'mined'}, zone: match, action: relabel}}"
    recipe = recipe_of(["mined", "clip"], pairs, clip, "--relations.rules", f"[{rule}]")
    train(recipe, tmp_path / "run")
    epochs = [record for record in read_log(tmp_path / "run/log.jsonl") if record["kind"] == "epoch"]
    assert sum(record["relations/recorded/relabel"] for record in epochs) > 0


def test_a_dual_judge_converts(clip: Path, other: Path, squares: Path, pairs: Path, tmp_path: Path) -> None:
    """ECM on a model that has no ITM: the judge is asked about all pairs of the batch."""
    truth = open_pairs(squares / "pairs.jsonl").split("train")
    judge = DualFeatures(open_model(other), truth, "cpu")
    fit_dual_calibration(judge, truth).save(tmp_path / "calibration.json")
    words = ["--ecm.judge.kind", "dual", "--ecm.judge.checkpoint", str(other), "--ecm.ask", "all"]
    words += ["--ecm.judge.calibration", str(tmp_path / "calibration.json"), "--ecm.zones.low", "0.0001"]
    said, _ = train(recipe_of(["mafa", "clip"], pairs, clip, *words), tmp_path / "run")
    verdicts = read_verdicts(tmp_path / "run/ledger")
    assert len(verdicts) and all(name.startswith("judge:") for name in verdicts["judge"].to_pylist())
    assert any("pairs at 0.8" in line for line in said)  # how many of the known ones the judge would convert


@pytest.mark.parametrize("seed", ["same inputs", "other inputs"])
def test_srcl_by_a_seed_model(seed: str, clip: Path, other: Path, pairs: Path, tmp_path: Path) -> None:
    if seed == "other inputs":
        shorter = open_model(other)
        shorter.preprocessing.tokenizer.model_max_length = 9  # type: ignore[attr-defined]
        shorter.model.save_pretrained(tmp_path / "seed")
        shorter.preprocessing.save(tmp_path / "seed")
        other = tmp_path / "seed"
    train(recipe_of(["srcl", "clip"], pairs, clip, "--srcl.seed_model", str(other)), tmp_path / "run")
    assert any("srcl" in name or "weight" in name for name in steps(tmp_path / "run")[0])


def test_a_guide_a_momentum_model_and_smoothing(clip: Path, other: Path, pairs: Path, tmp_path: Path) -> None:
    rules = "[{detector: same_image, action: relabel}, {detector: guide, margin: 0.02, action: mask}]"
    words = ["--relations.guide_model", str(other), "--relations.rules", rules, "--objectives.itc.smoothing", "0.3"]
    words += ["--momentum", "{queue_size: 8, decay: 0.9}"]
    _, weights = train(recipe_of(["clip"], pairs, clip, *words), tmp_path)
    assert all(value.isfinite().all() for value in weights.values())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    clip: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(["grit", "clip"], pairs, clip, "--loop.checkpoint_every", "1", "--loop.micro_batch", "3")
    _, whole = train(recipe, tmp_path / "whole")
    from truepair.engine.loop.update import OptimizerStep

    take, calls = OptimizerStep.take, []

    def stopped(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return take(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OptimizerStep, "take", stopped)
        train(recipe, tmp_path / "stopped")
    _, resumed = train(recipe, tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "stopped/log.jsonl").read_bytes()


class OnRanks:
    def __init__(self, recipe: PretrainRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder

    def go(self) -> None:
        pretrain(self.recipe, self.folder, lambda _: None)


@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_ranks_have_the_losses_of_one(clip: Path, pairs: Path, tmp_path: Path, shard: str) -> None:
    words = ["--loop.evaluate_every", "0"]
    train(recipe_of(["clip"], pairs, clip, *words), tmp_path / "one")
    both = recipe_of(["clip"], pairs, clip, *words, "--loop.batch_size", "4", "--loop.shard", shard)
    assert run_ranks([OnRanks(both, tmp_path / "two")] * 2, limit=280) == [0, 0]
    for one, other in zip(steps(tmp_path / "one"), steps(tmp_path / "two"), strict=True):
        assert one["itc"] == pytest.approx(other["itc"], rel=1e-5)
    assert isinstance(CLIPModel.from_pretrained(tmp_path / "two/model"), CLIPModel)


def test_frozen_towers_are_cached(clip: Path, pairs: Path, tmp_path: Path) -> None:
    """Locked-image tuning: the image tower runs once per picture, and its weights stay."""
    words = [
        "--model.freeze_image",
        "true",
        "--model.cache_images",
        "true",
        "--model.cache_folder",
        str(tmp_path / "c"),
    ]
    _, weights = train(recipe_of(["clip"], pairs, clip, *words), tmp_path / "run")
    before = CLIPModel.from_pretrained(clip).state_dict()
    for name in before:
        if name.startswith("vision_model."):
            assert torch.equal(weights[name], before[name])
    assert not torch.equal(weights["visual_projection.weight"], before["visual_projection.weight"])
    assert list((tmp_path / "c").iterdir())


@pytest.mark.parametrize(
    ("recipes", "words", "message"),
    [
        (
            ["clip"],
            ["--text.tokenizer", "train", "--text.max_length", "9"],
            r"reads tokens of its own; set it to model",
        ),
        (["clip"], ["--text.max_length", "90"], r"text\.max_length is 90, but the model reads at most 12 tokens"),
        (["clip"], ["--data.transform.size", "32"], r"data\.transform\.size is 32, but the model reads 16 px"),
        (["clip"], ["--data.transform.normalisation", "clip"], r"the model has its own; set it to encoder"),
        (["clip"], ["--objectives.itm.weight", "1"], r"reads no image and text together"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    recipes: list[str], words: list[str], message: str, clip: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        train(recipe_of(recipes, pairs, clip, *words), tmp_path)
    assert "\n" not in str(refused.value)


def test_an_itm_judge_reads_plain_images_beside_a_clip(clip: Path, pairs: Path, tmp_path: Path) -> None:
    """Their tokens and pixels differ: it cannot read the batch as it is, but it can read what the batch is made of."""
    judge = save_albef(tmp_path / "judge", open_pairs(pairs))
    words = ["--ecm.judge.checkpoint", str(judge), "--ecm.ask", "all"]
    with pytest.raises(ConfigError, match="the student reads tokens and pixels of its own; set it to plain"):
        train(recipe_of(["mafa", "clip"], pairs, clip, *words, "--ecm.judge.view", "batch"), tmp_path / "batch")
    train(recipe_of(["mafa", "clip"], pairs, clip, *words), tmp_path / "plain")
    assert len(read_verdicts(tmp_path / "plain/ledger"))
