"""The loop on a tiny real run: it learns, resumes exactly, and does not depend on the number of workers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from truepair.data.open import open_pairs
from truepair.data.splits import DataConfig, build_tables
from truepair.data.transforms import TransformConfig
from truepair.engine.logs.log import read_log
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.errors import ConfigError, DataError
from truepair.methods.recipe import ModelConfig, PretrainRecipe, TextConfig
from truepair.methods.step import ItcConfig, ItmConfig, ObjectivesConfig
from truepair.methods.student import build_student
from truepair.tasks.pretraining import pretrain


def recipe_for(squares: Path, **loop: object) -> PretrainRecipe:
    encoder = {"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    encoder |= {"num_attention_heads": 2, "intermediate_size": 64}
    options = {"image_encoder": encoder, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    options |= {"text_layers": 1, "fusion_layers": 1, "embed_dim": 16, "initializer_range": 0.1}
    options |= {"image_pooling": "mean", "text_pooling": "mean"}
    settings = {"epochs": 3, "batch_size": 8, "workers": 0, "log_every": 1, "cpu": True} | loop
    return PretrainRecipe(
        data=DataConfig(
            sources=[str(squares / "pairs.jsonl")],
            validation_split="test",
            transform=TransformConfig(size=16, crop_scale=(0.9, 1.0), rand_augment_ops=1, rand_augment_level=1),
        ),
        text=TextConfig(vocab_size=100, max_length=10),
        model=ModelConfig(options=options),
        objectives=ObjectivesConfig(itm=ItmConfig(sampling="multinomial", hard_fraction=0.7, start_epoch=1)),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        loop=LoopConfig(**settings),  # type: ignore[arg-type]
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def silent(line: str) -> None:
    pass


class StoppedError(Exception):
    pass


def test_it_learns_and_leaves_a_usable_folder(squares: Path, tmp_path: Path) -> None:
    outcome = pretrain(recipe_for(squares, epochs=25), tmp_path, silent)
    records = read_log(tmp_path / "log.jsonl")
    steps = [record for record in records if record["kind"] == "step"]
    assert len(steps) == outcome.run.steps == 25 * 4
    assert "itm" not in steps[0]
    assert {"loss", "itc", "itm", "mlm", "temperature"} <= set(steps[-1])
    assert sum(record["itc"] for record in steps[-8:]) < 0.7 * sum(record["itc"] for record in steps[:8])
    assert [record["epoch"] for record in records if record["kind"] == "validation"] == list(range(25))
    assert outcome.retrieval is not None
    assert outcome.retrieval.ways["similarity"].mean_recall_at_1 > 3 / 12
    assert list(outcome.retrieval.ways) == ["similarity", "ITM", "similarity + ITM"]
    assert json.loads((tmp_path / "retrieval.json").read_text())["images"] == 12
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"model.safetensors", "preprocessing.json"}


def test_a_sigmoid_loss_says_where_its_bias_stays(squares: Path, tmp_path: Path) -> None:
    recipe = recipe_for(squares, epochs=1)
    sigmoid = replace(recipe.objectives, itc=ItcConfig(loss="sigmoid", bias_init=-4.0))
    said: list[str] = []
    pretrain(replace(recipe, objectives=sigmoid), tmp_path, said.append)
    assert (
        "the model has no bias for the sigmoid loss: the run learns one, from -4 on, and keeps it in its checkpoints; "
        "the saved model has no place for it (rankings need none)"
    ) in said
    steps = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert steps[0]["bias"] == -4.0 and steps[-1]["bias"] != -4.0
    assert not any("bias" in name and name.startswith("own") for name in weights(tmp_path))


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    pretrain(recipe_for(squares, checkpoint_every=2), folder, silent)
    return folder


@pytest.mark.parametrize("stop_at", [3, 4, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(
    squares: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    recipe = recipe_for(squares, checkpoint_every=2)

    from truepair.engine.loop import loop

    original = loop.TrainingLoop._take_step

    def stop(self: loop.TrainingLoop, *arguments: object) -> object:
        if self.done == stop_at:
            raise StoppedError
        return original(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "_take_step", stop)
        with pytest.raises(StoppedError):
            pretrain(recipe, tmp_path / "broken", silent)
    pretrain(recipe, tmp_path / "broken", silent)
    assert same(weights(whole), weights(tmp_path / "broken"))
    logs = [(folder / "log.jsonl").read_bytes() for folder in (whole, tmp_path / "broken")]
    assert logs[0] == logs[1]


def test_worker_count_does_not_matter(squares: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        pretrain(recipe_for(squares, epochs=2, workers=workers), tmp_path / str(workers), silent)
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_another_seed_is_another_run(squares: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        pretrain(recipe_for(squares, epochs=1, seed=seed), tmp_path / str(seed), silent)
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_a_run_folder_of_another_plan_is_refused(squares: Path, tmp_path: Path) -> None:
    pretrain(recipe_for(squares, epochs=1), tmp_path, silent)
    with pytest.raises(ConfigError, match="another plan"):
        pretrain(recipe_for(squares, epochs=1, batch_size=4), tmp_path, silent)


def test_a_batch_larger_than_the_data_is_one_line(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"36 training pairs do not fill one batch of 64; lower loop\.batch_size"):
        pretrain(recipe_for(squares, batch_size=64), tmp_path, silent)


def test_too_many_unreadable_pictures_stop_the_run(squares: Path, tmp_path: Path) -> None:
    lines = (squares / "pairs.jsonl").read_text().splitlines()
    for line in lines:
        name = json.loads(line)["image"]
        broken = name.startswith("red") and "-3" not in name
        (tmp_path / name).write_bytes(b"" if broken else (squares / name).read_bytes())
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    recipe = recipe_for(tmp_path, epochs=10)
    with pytest.raises(DataError, match=r"could not be read, over the limit of 5\.0%"):
        pretrain(recipe, tmp_path / "run", silent)
    patient = replace(recipe, data=replace(recipe.data, max_bad_fraction=0.9), loop=replace(recipe.loop, epochs=1))
    assert pretrain(patient, tmp_path / "patient", silent).run.substituted > 0


def test_groups_can_be_chosen_by_size(squares: Path) -> None:
    from truepair.data.splits import build_tables

    config = DataConfig(sources=[str(squares / "pairs.jsonl")], min_group_size=4)
    assert len(build_tables(config).train) == len(open_pairs(squares / "pairs.jsonl", split="train"))
    with pytest.raises(ConfigError, match=r"no group of .* is left"):
        build_tables(replace(config, min_group_size=5))


def test_a_tokenizer_without_a_mask_token_trains_without_mlm(squares: Path, tmp_path: Path) -> None:
    recipe = recipe_for(squares)
    tokenizer = build_student(recipe, build_tables(recipe.data).train, silent).preprocessing.tokenizer
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    recipe = replace(recipe, text=replace(recipe.text, tokenizer=str(tmp_path / "tokenizer")))
    with pytest.raises(ConfigError, match=r"no mask token; set objectives\.mlm\.weight to 0"):
        pretrain(recipe, tmp_path / "with", silent)
    objectives = replace(recipe.objectives, mlm=replace(recipe.objectives.mlm, weight=0.0))
    pretrain(replace(recipe, objectives=objectives), tmp_path / "without", silent)
