"""The guard in a run: a tiny CLIP that is fine-tuned too hard forgets, and is told of; mixing with the start helps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tasks.test_zero_shot import kinds, tiny_clip
from truepair.cli.main import main
from truepair.data.splits import DataConfig
from truepair.data.transforms import TransformConfig
from truepair.engine.logs.log import read_log
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import TrainingLoop
from truepair.errors import ConfigError
from truepair.methods.recipe import InterpolateConfig, ModelConfig, PretrainRecipe, TextConfig, ZeroShotConfig
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models.dual.lora import LoraSettings
from truepair.models.open import open_model
from truepair.reports.run import report_run
from truepair.tasks.pretraining import PretrainOutcome, pretrain

__all__ = ["kinds", "tiny_clip"]  # fixtures


def recipe_for(
    start: Path,
    source: Path,
    classes: Path | None,
    *,
    rate: float,
    between: InterpolateConfig | None = None,
    **loop: Any,
) -> PretrainRecipe:
    settings = {"epochs": 2, "batch_size": 12, "workers": 0, "log_every": 1, "cpu": True} | loop
    pixels = TransformConfig(size=0, normalisation="encoder", crop_scale=(0.9, 1.0), rand_augment_ops=0)
    return PretrainRecipe(
        data=DataConfig(sources=[str(source)], validation_split="test", transform=pixels),
        text=TextConfig(tokenizer="model", max_length=0),
        model=ModelConfig(checkpoint=str(start), interpolate=between),
        objectives=ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0)),
        optimizer=TowerOptimizerConfig(learning_rate=rate, warmup_steps=2),
        loop=LoopConfig(**settings),
        zero_shot=None if classes is None else ZeroShotConfig(data=str(classes), workers=0),
    )


@pytest.fixture(scope="module")
def skilled(tiny_clip: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a CLIP that knows the squares."""
    folder = tmp_path_factory.mktemp("skilled")
    pretrain(recipe_for(tiny_clip, squares / "pairs.jsonl", None, rate=3e-3, epochs=30), folder, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def wrong_pairs(squares: Path) -> Path:
    """The squares with the captions of others."""
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()]
    captions = [row["captions"] for row in rows]
    for row, other in zip(rows, captions[17:] + captions[:17], strict=True):
        row["captions"] = other
    file = squares / "wrong.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def told(recipe: PretrainRecipe, folder: Path) -> tuple[PretrainOutcome, list[str]]:
    lines: list[str] = []
    return pretrain(recipe, folder, lines.append), lines


def validations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == "validation"]


def test_a_clip_that_is_fine_tuned_too_hard_forgets_and_is_told_of(
    skilled: Path, wrong_pairs: Path, kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, lines = told(recipe_for(skilled, wrong_pairs, kinds, rate=3e-2), tmp_path)
    assert outcome.zero_shot is not None
    records = validations(tmp_path)
    assert [(record["step"], record["epoch"]) for record in records] == [(0, -1), (3, 0), (6, 1)]
    start, end = records[0]["zero_shot_top1"], records[-1]["zero_shot_top1"]
    assert start > 0.5 > end + 0.1
    assert outcome.zero_shot.before["zero_shot_top1"] == start
    assert outcome.zero_shot.after.top_1.value == end
    said = capsys.readouterr().err
    assert f"zero-shot top-1 fell from {start:.1%} to {end:.1%}: the model forgets; lower" in said
    assert "before training: validation i2t R@1" in said and f"zero-shot top-1 {start:.1%}" in said
    assert f"zero-shot top-1: {start:.1%} before training, {end:.1%} of the model that is left" in lines
    kept = json.loads((tmp_path / "zero_shot.json").read_text())
    assert kept["before"]["zero_shot_top1"] == start and len(kept["after"]["per_class"]) == 12


def test_a_stopped_run_knows_what_was_before_training(
    skilled: Path, wrong_pairs: Path, kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = InterpolateConfig(alphas=[0.0, 0.5, 1.0], choose=["zero_shot_top1"])
    recipe = recipe_for(skilled, wrong_pairs, kinds, rate=3e-2, between=between, checkpoint_every=2)
    told(recipe, tmp_path / "whole")
    take = TrainingLoop._take_step

    def stop(self: TrainingLoop, *arguments: Any) -> Any:
        if self.done == 5:
            raise InterruptedError
        return take(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_take_step", stop)
        with pytest.raises(InterruptedError):
            told(recipe, tmp_path / "stopped")
    told(recipe, tmp_path / "stopped")
    told(recipe, tmp_path / "stopped")  # a finished run has nothing left to do
    for name in ("log.jsonl", "zero_shot.json", "interpolation.json", "model/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


def test_the_model_between_start_and_end_that_is_asked_for_is_saved(
    skilled: Path, wrong_pairs: Path, kinds: Path, tmp_path: Path
) -> None:
    between = InterpolateConfig(alphas=[0.0, 0.5, 1.0], alpha=0.25)
    outcome, lines = told(recipe_for(skilled, wrong_pairs, kinds, rate=3e-2, between=between), tmp_path)
    curve = outcome.interpolation
    assert curve is not None and outcome.zero_shot is not None
    assert [point.alpha for point in curve.points] == [0.0, 0.25, 0.5, 1.0] and curve.saved == 0.25
    records = validations(tmp_path)
    for point, record in ((curve.points[0], records[0]), (curve.points[-1], records[-1])):
        assert point.figures == {name: record[name] for name in point.figures}  # the ends are exact
    last = max((tmp_path / "checkpoints").glob("step-*"))
    start, end, saved = (
        load_file(folder / "model.safetensors") for folder in (skilled / "model", last, tmp_path / "model")
    )
    for name, value in saved.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name], rtol=1e-4, atol=1e-6)
    assert "the saved model is 75% start and 25% trained, as model.interpolate.alpha says" in lines
    assert outcome.zero_shot.after.top_1.value == curve.points[1].figures["zero_shot_top1"]
    opened = open_model(tmp_path / "model").model
    assert all(torch.equal(opened.state_dict()[name], value) for name, value in outcome.model.state_dict().items())
    page = report_run(outcome, tmp_path, command="truepair pretrain").page.read_text()
    assert "Zero-shot classification" in page and "Between the start and the trained model" in page


def test_the_model_is_chosen_by_validation_figures(
    skilled: Path, wrong_pairs: Path, kinds: Path, tmp_path: Path
) -> None:
    between = InterpolateConfig(choose=["zero_shot_top1", "zero_shot_class_mean"])
    outcome, lines = told(recipe_for(skilled, wrong_pairs, kinds, rate=3e-2, between=between), tmp_path)
    curve = outcome.interpolation
    assert curve is not None
    best = max(curve.points, key=lambda point: (point.figures["zero_shot_top1"], point.alpha))  # classes of equal size
    assert curve.saved == best.alpha < 1.0
    assert any(
        line.endswith("where the mean of zero_shot_top1, zero_shot_class_mean on validation data is highest")
        for line in lines
    )
    assert json.loads((tmp_path / "interpolation.json").read_text())["saved"] == best.alpha


def test_the_curve_alone_leaves_the_trained_model(skilled: Path, squares: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        skilled, squares / "pairs.jsonl", None, rate=1e-3, between=InterpolateConfig(alphas=[0.5]), epochs=1
    )
    outcome, lines = told(recipe, tmp_path)
    assert outcome.interpolation is not None and set(outcome.interpolation.points[0].figures) >= {"i2t_r@1", "t2i_r@1"}
    assert any(line.endswith("the trained one is saved") for line in lines)
    last = max((tmp_path / "checkpoints").glob("step-*"))
    end, saved = (load_file(folder / "model.safetensors") for folder in (last, tmp_path / "model"))
    assert all(torch.equal(end[name], value) for name, value in saved.items())
    assert outcome.zero_shot is None and [record["step"] for record in validations(tmp_path)] == [3]


def test_without_a_validation_split_the_guard_alone_is_evaluated(
    skilled: Path, squares: Path, kinds: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(skilled, squares / "pairs.jsonl", kinds, rate=1e-4, epochs=1, best_figure="zero_shot_top1")
    recipe = replace(recipe, data=replace(recipe.data, validation_split=""))
    outcome, _ = told(recipe, tmp_path)
    assert set(validations(tmp_path)[0]) - {"kind", "step", "epoch"} == {
        "zero_shot_top1",
        "zero_shot_top5",
        "zero_shot_class_mean",
    }
    assert outcome.run.best_folder is not None


def test_what_cannot_be_is_refused(skilled: Path, squares: Path, kinds: Path, tmp_path: Path) -> None:
    pairs = squares / "pairs.jsonl"
    shutil.copytree(kinds, tmp_path / "set" / "test")
    chosen = InterpolateConfig(choose=["zero_shot_top1"])
    with pytest.raises(
        ConfigError, match=r"zero_shot_top1 would choose a model by the test split of set; give another"
    ):
        told(recipe_for(skilled, pairs, tmp_path / "set", rate=1e-4, between=chosen), tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"choose names 'zero_shot_top1', which is not evaluated; give one of i2t_r@1, "
    ):
        told(recipe_for(skilled, pairs, None, rate=1e-4, between=chosen, epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.interpolate needs a start that was trained; set model\.checkpoint"):
        ModelConfig(interpolate=InterpolateConfig())
    with pytest.raises(ConfigError, match=r"not the adapter of model\.lora; give one of both"):
        ModelConfig(checkpoint="clip", interpolate=InterpolateConfig(), lora=LoraSettings())
    with pytest.raises(ConfigError, match=r"set loop\.save, or drop them"):
        recipe_for(skilled, pairs, None, rate=1e-4, between=chosen, save=False)
    with pytest.raises(ConfigError, match=r"model\.interpolate\.alphas is 1\.5; give a number from 0 to 1"):
        InterpolateConfig(alphas=[1.5])
    with pytest.raises(ConfigError, match=r"alpha and choose both say which model is saved; give one"):
        InterpolateConfig(alpha=0.5, choose=["t2i_r@1"])
    with pytest.raises(ConfigError, match=r"zero_shot\.largest_fall is 2; give a number from 0 to 1"):
        ZeroShotConfig(data="somewhere", largest_fall=2)


def test_a_run_that_began_without_the_guard_says_so(skilled: Path, squares: Path, kinds: Path, tmp_path: Path) -> None:
    recipe = recipe_for(skilled, squares / "pairs.jsonl", None, rate=1e-4, epochs=1)
    told(recipe, tmp_path)
    guarded = replace(recipe, zero_shot=ZeroShotConfig(data=str(kinds), workers=0))
    outcome, lines = told(guarded, tmp_path)
    assert outcome.zero_shot is not None and not outcome.zero_shot.before
    assert "zero-shot top-1 before training is not known: the run began without the guard" in lines


def test_the_command_prints_what_training_did(
    skilled: Path, squares: Path, kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "clip",
        str(squares / "pairs.jsonl"),
        "--model.checkpoint",
        str(skilled),
        "--loop.batch_size",
        "12",
    ]
    words += ["--loop.epochs", "1", "--loop.workers", "0", "--loop.cpu", "true", "--run-folder", str(tmp_path / "run")]
    main([*words, "--zero_shot.data", str(kinds), "--zero_shot.workers", "0"])
    shown = capsys.readouterr().out
    assert "before training" in shown and "trained" in shown and "Classes recognised worst" in shown
    words[words.index("--run-folder") + 1] = str(tmp_path / "other")
    with pytest.raises(SystemExit):
        main([*words, "--zero_shot.largest_fall", "0.1"])
    assert "zero-shot classification has no data; name a folder of classes" in capsys.readouterr().err
