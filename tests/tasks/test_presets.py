"""Every preset trains, from the recipe files, on a small set of pairs."""

import dataclasses
import json
from pathlib import Path

import pytest

from truepair.cli.arguments import bundled_recipes, find_recipe, read_recipe
from truepair.cli.tasks import trained_tasks
from truepair.errors import CheckpointError, ConfigError
from truepair.methods.recipe import PretrainRecipe
from truepair.relations.ledger import read_ledger
from truepair.tasks.pretraining import PretrainOutcome, pretrain

SMALL = """
data: {sources: [PAIRS], captions: draw, transform: {size: 16, normalisation: none}, validation_split: ''}
text: {tokenizer: train, vocab_size: 64, max_length: 8}
model:
  size: tiny
  image_checkpoint: null
  text_checkpoint: null
  options:
    image_encoder: {model_type: vit, image_size: 16, patch_size: 4, hidden_size: 16, num_hidden_layers: 1,
      num_attention_heads: 2, intermediate_size: 16}
    hidden_size: 16
    num_attention_heads: 2
    intermediate_size: 16
    text_layers: 1
    fusion_layers: 1
    embed_dim: 8
optimizer: {learning_rate: 1.0e-3, warmup_steps: 2}
loop: {epochs: 2, batch_size: 12, workers: 0, cpu: true, log_every: 1, checkpoint_minutes: 0}
evaluation: {rerank: 4}
"""


def train(names: list[str], squares: Path, folder: Path, *options: str) -> PretrainOutcome:
    small = folder / "small.yaml"
    small.write_text(SMALL.replace("PAIRS", str(squares / "pairs.jsonl")), encoding="utf-8")
    recipe = read_recipe(PretrainRecipe, [*map(find_recipe, names), small], list(options), command="test")
    run = folder / "-".join(names)
    return pretrain(recipe, run, lambda _: None)


def records(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def judge(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    return train(["itm_judge"], squares, folder).run.model_folder


@pytest.fixture(scope="module")
def seed(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seed")
    return train(["seed"], squares, folder).run.model_folder


def test_albef(squares: Path, tmp_path: Path) -> None:
    train(["albef"], squares, tmp_path)
    assert {"itc", "itm", "mlm"} <= set(records(tmp_path / "albef", "step")[-1])


def test_grit(squares: Path, tmp_path: Path) -> None:
    train(["grit"], squares, tmp_path)
    epochs = records(tmp_path / "grit", "epoch")
    assert epochs[-1]["hardest_similarity"] > -1
    assert 0 <= epochs[-1]["random_false_negative_rate"] < 1


def test_falcon(squares: Path, tmp_path: Path) -> None:
    train(["falcon"], squares, tmp_path)
    assert 0 < records(tmp_path / "falcon", "epoch")[-1]["hardness_quantile"] < 1
    steps = records(tmp_path / "falcon", "step")
    assert ["hardness_reward" in step for step in steps] == [bool(step["epoch"]) for step in steps]


def test_falcon_without_mlm(squares: Path, tmp_path: Path) -> None:
    itc = ["--objectives.mlm.weight", "0", "--objectives.itm.weight", "0"]
    train(["falcon"], squares, tmp_path, *itc, "--data.validation_split", "test")
    assert "hardness_reward" in records(tmp_path / "falcon", "step")[-1]
    with pytest.raises(ConfigError, match=r"without MLM learns from validation pairs, and there are none"):
        train(["falcon"], squares, tmp_path, *itc)


@pytest.mark.parametrize("preset", ["mafa", "mafa_official"])
def test_mafa(preset: str, judge: Path, squares: Path, tmp_path: Path) -> None:
    options = ["--ecm.judge.checkpoint", str(judge), "--text.tokenizer", str(judge)]
    options += ["--ecm.zones.low", "0.3", "--ecm.zones.high", "0.4"]  # the judge of this test is hardly trained
    train([preset], squares, tmp_path, *options)
    epochs = records(tmp_path / preset, "epoch")
    judged = sum(epochs[-1][f"ecm/{side}/{zone}"] for side in ("i2t", "t2i") for zone in ("below", "between", "above"))
    assert judged > 0
    table = read_ledger(tmp_path / preset / "ledger").to_pandas()
    assert table["judge"].str.startswith("judge:").all() and len(table)
    if preset == "mafa":
        assert epochs[0]["ecm/memory_misses"] > 0


def test_srcl(seed: Path, squares: Path, tmp_path: Path) -> None:
    train(["srcl"], squares, tmp_path, "--srcl.seed_model", str(seed), "--text.tokenizer", str(seed))
    steps = records(tmp_path / "srcl", "step")
    assert steps[0]["srcl_alpha"] == 1.0 > steps[-1]["srcl_alpha"]
    assert {"mi_positive", "mi_negative", "mi_bound"} <= set(steps[0])
    histogram = [value for name, value in records(tmp_path / "srcl", "epoch")[0].items() if name.startswith("srcl_w")]
    assert sum(histogram) > 0


def test_a_seed_model_reads_the_pixel_values_it_was_trained_on(seed: Path, squares: Path, tmp_path: Path) -> None:
    options = ["--srcl.seed_model", str(seed), "--text.tokenizer", str(seed), "--loop.epochs", "1"]
    for other in ("imagenet", "encoder"):
        with pytest.raises(CheckpointError, match=r"images of another normalisation; set data\.transform"):
            train(["srcl"], squares, tmp_path, *options, "--data.transform.normalisation", other)
    own = ["--data.transform.normalisation", "encoder"]  # the same statistics, since the encoders are alike
    (tmp_path / "own").mkdir()
    other_seed = train(["seed"], squares, tmp_path / "own", *own).run.model_folder
    again = ["--srcl.seed_model", str(other_seed), "--text.tokenizer", str(other_seed), "--loop.epochs", "1"]
    assert train(["srcl"], squares, tmp_path / "own", *again, *own).run.steps > 0
    # Of another size: position embeddings are interpolated, as for the student.
    larger = ["--data.transform.size", "32", "--model.options.image_encoder.image_size", "32"]
    assert train(["srcl"], squares, tmp_path, *options, *larger).run.steps > 0


def test_every_bundled_recipe_is_a_recipe() -> None:
    for name in bundled_recipes():
        under = {"study": ["sample"], "blip2_sample": ["blip2"]}  # which say what these two build on
        layers = [*under.get(name, []), name]
        recipe = read_recipe(PretrainRecipe, [find_recipe(layer) for layer in layers], [], command="test")
        assert dataclasses.asdict(recipe)


@pytest.mark.parametrize("task", trained_tasks())
def test_every_bundled_recipe_of_a_task_is_one(task: str) -> None:
    recipe = trained_tasks()[task].recipe
    assert recipe is not None
    names = bundled_recipes(task)
    assert {"paper", "sample"} <= set(names)
    for name in names:
        under = {"assignment": ["paper"], "srcl": ["paper"]}  # which are laid over another one
        layers = [find_recipe(layer, task) for layer in [*under.get(name, []), name]]
        assert dataclasses.asdict(read_recipe(recipe.load(), layers, [], command="test"))
