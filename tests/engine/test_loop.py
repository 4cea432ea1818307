"""What the loop owns beside stopping and going on: accumulation, averages, sampler figures, profiles, trackers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType
from safetensors.torch import load_file

from tests.engine.tiny import COUNT, RANDOM, TinyModel, TinyRun, TinyStep, accuracy
from truepair.engine.logs.log import read_log
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import take_best
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.engine.loop.update import OptimizerStep, StepResult
from truepair.engine.state.checkpoint import CheckpointStore
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.sampling.batches import SamplerConfig, build_batches, describe_scaling
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import random_batches
from truepair.sampling.ranks import Ranks


def of_kind(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == kind]


def test_every_pair_is_visited_once_an_epoch_and_steps_hold_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[int]]] = []
    take = OptimizerStep.take

    def record(self: OptimizerStep, batches: Any, *rest: Any) -> Any:
        seen.append([batch.index.tolist() for batch in batches])
        return take(self, batches, *rest)

    monkeypatch.setattr(OptimizerStep, "take", record)
    assert TinyRun(tmp_path).go().steps == 15
    assert [len(step) for step in seen] == [2, 2, 2, 2, 1] * 3
    for epoch in range(3):
        pairs = [pair for step in seen[5 * epoch : 5 * epoch + 5] for batch in step for pair in batch]
        assert sorted(pairs) == list(range(COUNT))
    first = [batch for step in seen[:5] for batch in step]
    plan = np.load(tmp_path / "plans" / "plan-00001.npy")
    assert [pair for step in seen[5:10] for batch in step for pair in batch] == plan.tolist()
    assert [len(batch) for batch in first] == [4] * 9
    assert all(len({pair // 2 for pair in batch}) == 4 for step in seen for batch in step)  # keys: pairs of two match


def test_a_run_begins_once(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, loop={"epochs": 1})
    first, again = run.build(), run.build()
    first.run()
    again.run()
    assert [loop.bare_step.begun for loop in (first, again)] == [1, 0]  # the second found the first one's checkpoint


def test_accumulated_gradients_are_the_mean_of_the_batches(tmp_path: Path) -> None:
    loop = TinyRun(tmp_path, sampler=RANDOM).build()
    loop.step.eval()  # dropout off
    batches = [loop.collate([loop.dataset[visit] for visit in visits]) for visits in loop.batches.visits(0, 0)]
    info = StepInfo(0, 0, 15, 5)
    gradients = []
    for group in (batches[:2], batches[:1], batches[1:2]):
        for batch in group:
            loop.optimizer_step._differentiate(batch, info, len(group), last=batch is group[-1])
        gradients.append(loop.model.image.weight.grad.clone())
        loop.model.image.weight.grad = None
    assert not torch.allclose(gradients[1], gradients[2])
    torch.testing.assert_close(gradients[0], (gradients[1] + gradients[2]) / 2)


def test_the_average_is_what_is_evaluated_and_left(tmp_path: Path) -> None:
    evaluated: list[dict[str, torch.Tensor]] = []

    def look(model: TinyModel) -> dict[str, float]:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"accuracy": 0.0}

    run = TinyRun(tmp_path, evaluator=look)
    loop = run.build()
    result = loop.run()
    left = load_file(result.model_folder / "model.safetensors")
    average = load_file(run.last_checkpoint() / "average.safetensors")
    trained = load_file(run.last_checkpoint() / "model.safetensors")
    for name, value in left.items():
        assert torch.equal(value, average[name])
        assert torch.equal(value, evaluated[-1][name])
        assert torch.equal(value, loop.model.state_dict()[name])
        assert not torch.equal(value, trained[name])


def test_the_average_follows_its_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.3)
    values, expected = [5.0, -2.0, 7.0, 1.0], model.weight.item()
    for update, value in enumerate(values):
        model.weight.data.fill_(value)
        average.update()
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == values[-1]


def test_the_log_tells_how_hard_and_how_false_the_batches_are(tmp_path: Path) -> None:
    TinyRun(tmp_path / "grit").go()
    TinyRun(tmp_path / "random", sampler=RANDOM, loop={"seed": 3}).go()
    labels = np.arange(COUNT) // 3
    expected_at_random = 2 / (COUNT - 1)
    for name in ("grit", "random"):
        steps, epochs = (of_kind(tmp_path / name, kind) for kind in ("step", "epoch"))
        assert len(epochs) == 3
        for epoch, figures in enumerate(epochs):
            of_epoch = [record["hardest_similarity"] for record in steps if record["epoch"] == epoch]
            assert figures["hardest_similarity"] == pytest.approx(sum(of_epoch) / 5)
            assert figures["random_false_negative_rate"] == pytest.approx(expected_at_random)
            assert figures["batches"] == 9
        assert ("clashes" in epochs[0]) == (name == "grit")
    batches = random_batches(COUNT, 4, seed=3, epoch=1)
    shared = [labels[a] == labels[b] for batch in batches for a in batch for b in batch if a < b]
    assert of_kind(tmp_path / "random", "epoch")[1]["false_negative_rate"] == pytest.approx(sum(shared) / len(shared))


def test_plans_come_from_the_features_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[tuple[torch.Tensor, StepOutput]] = []
    take = OptimizerStep.take

    def record(self: OptimizerStep, batches: Any, *rest: Any) -> Any:
        update = take(self, batches, *rest)
        outputs.extend(zip([batch.index for batch in batches], update.outputs, strict=True))
        return update

    monkeypatch.setattr(OptimizerStep, "take", record)
    TinyRun(tmp_path).go()
    config = GroupedConfig(queue_size=20, search_space=12)
    sampler = GroupedBatchSampler(COUNT, 4, config=config, known=KnownMatches(np.arange(COUNT) // 2))
    for epoch in range(3):
        if epoch:
            assert np.array_equal(np.load(tmp_path / "plans" / f"plan-{epoch:05d}.npy"), sampler.order)
        for index, output in outputs[9 * epoch : 9 * epoch + 9]:
            sampler.collect(index, output.image_feature, output.text_feature)


def test_scaled_sizes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TinyRun(tmp_path, loop={"epochs": 1}).go()
    assert "GRIT on 36 pairs" not in capsys.readouterr().err

    config = SamplerConfig(kind="grit")
    (line,) = describe_scaling(config, build_batches(config, 1000, 32, seed=0, ranks=Ranks()))
    assert line == "GRIT on 1,000 pairs: search_space 1,920 -> 128, queue_size 48,000 -> 1,000"
    random = replace(config, kind="random")
    assert describe_scaling(random, build_batches(random, 1000, 32, seed=0, ranks=Ranks())) == []


def test_a_warm_up_that_outlasts_the_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TinyRun(tmp_path / "long", loop={"epochs": 1}).go()
    assert "never reaches its peak" not in capsys.readouterr().err
    loop = TinyRun(tmp_path / "short", loop={"epochs": 1, "accumulate": 9}).build()
    assert loop.total_steps == 1
    loop.run()
    assert "optimizer.warmup_steps is 2, and the run has 1 steps" in " ".join(capsys.readouterr().err.split())


def test_speed_waiting_and_memory_are_logged_apart(tmp_path: Path) -> None:
    TinyRun(tmp_path, loop={"epochs": 1, "log_every": 2}).go()
    records = read_log(tmp_path / "timing.jsonl")
    assert [record["step"] for record in records] == [2, 4, 5]  # the fifth ends the epoch
    for record in records:
        assert record["pairs_per_second"] > 0
        assert 0 <= record["data_wait"] <= 1
        assert 50 < record["peak_rss_mib"] < 10_000


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.5, 0.9])
    run = TinyRun(
        tmp_path,
        loop={"epochs": 4, "checkpoint_every": 0, "keep_checkpoints": 1, "best_figure": "score"},
        evaluator=lambda model: {"score": next(scores)},
    )
    result = run.go()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000010", "step-00000020"]
    assert result.best_folder == tmp_path / "checkpoints" / "step-00000010"


def test_the_best_model_is_the_average_that_was_the_best(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(model: TinyModel) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": float(len(seen) == 2)}

    loop = TinyRun(tmp_path, loop={"epochs": 3, "best_figure": "score", "keep_checkpoints": 1}, evaluator=look).build()
    take_best(loop.model, loop.run())
    saved = load_file(tmp_path / "model" / "model.safetensors")
    for name, value in seen[1].items():
        assert torch.equal(loop.model.state_dict()[name], value) and torch.equal(saved[name], value)
        assert not torch.equal(seen[2][name], value)


def test_a_run_without_validation_says_that_the_last_model_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = TinyRun(tmp_path, loop={"epochs": 1, "best_figure": "score"}, evaluator=None).go()
    assert result.best_folder is None
    assert "'score', but nothing is evaluated" in " ".join(capsys.readouterr().err.split())


def test_figures_that_not_every_batch_has_are_means_over_those_that_have_them() -> None:
    losses = [{"loss": 1.0}, {"loss": 3.0, "rare": 5.0}]
    outputs = [StepOutput({name: torch.tensor(value) for name, value in part.items()}) for part in losses]
    update = StepResult(outputs, finite=True, gradient_norm=0.0, hardest_similarity=0.0, requests={})
    assert {name: float(value) for name, value in update.losses.items()} == {"loss": 2.0, "rare": 5.0}


def test_an_unknown_best_figure_is_one_line(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, loop={"best_figure": "acuracy"}, evaluator=accuracy)
    with pytest.raises(ConfigError, match=r"'acuracy', which is not evaluated; give one of accuracy"):
        run.go()


def test_minutes_make_checkpoints_too(tmp_path: Path) -> None:
    settings = {"checkpoint_every": 100, "checkpoint_minutes": 1e-9, "keep_checkpoints": 9, "epochs": 1}
    TinyRun(tmp_path, loop=settings, evaluator=None).go()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 5


def test_a_profile_of_one_step(tmp_path: Path) -> None:
    TinyRun(tmp_path, loop={"epochs": 1, "profile": 3}).go()
    trace = json.loads((tmp_path / "profile-3.json").read_text())
    assert any("aten::" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (tmp_path / "profile-3.txt").read_text()
    assert len(list(tmp_path.glob("profile-*"))) == 2


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"loop\.trackers names wandb, which is not installed"):
        TinyRun(tmp_path, loop={"trackers": ["wandb"]}).build()


class Tracker(GeneralTracker):
    """Stands for a tracker that is installed."""

    name = "trackio"
    requires_logging_directory = False
    tracker = None
    logged: ClassVar[list[tuple[dict[str, float], int | None]]] = []

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, float], step: int | None = None, **options: Any) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.logged.append(({}, None))


def test_trackers_get_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Tracker)
    TinyRun(tmp_path, loop={"epochs": 1, "trackers": ["trackio"]}).go()
    names = {name for values, _ in Tracker.logged for name in values}
    assert {"step/loss", "epoch/batches", "validation/accuracy", "timing/pairs_per_second"} <= names
    assert [step for values, step in Tracker.logged if "step/loss" in values] == [1, 2, 3, 4, 5]
    assert Tracker.logged[-1] == ({}, None)


def test_a_tracker_that_fails_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Tracker)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tracker, "log", full)
    monkeypatch.setattr(Tracker, "finish", full)
    TinyRun(tmp_path, loop={"epochs": 1, "trackers": ["trackio"]}).go()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("a tracker refuses figures (OSError(28, 'No space left on device')); all of them are in") == 1
    assert len([record for record in read_log(next(tmp_path.rglob("log.jsonl"))) if record["kind"] == "step"]) == 5


def test_what_ended_a_run_is_told_not_what_goes_wrong_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise DataError("the second")

    monkeypatch.setattr(TinyStep, "close", full)
    with pytest.raises(DataError, match="the second"):
        TinyRun(tmp_path / "whole", loop={"epochs": 1}).go()

    def first(*_: Any, **__: Any) -> None:
        raise CheckpointError("the first")

    monkeypatch.setattr(CheckpointStore, "save", first)
    with pytest.raises(CheckpointError, match="the first"):
        TinyRun(tmp_path / "struck", loop={"epochs": 1}).go()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp8"}, "loop.precision is 'fp8'"),
        ({"on_non_finite": "ignore"}, "loop.on_non_finite is 'ignore'"),
        ({"average_decay": 1.0}, "loop.average_decay is 1.0"),
        ({"accumulate": 0}, "loop.accumulate is 0; give 1 or more"),
        ({"trackers": ["weights"]}, "loop.trackers has 'weights'"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopConfig(**wrong)


def test_a_step_that_takes_batches_as_a_whole_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loop\.micro_batch is for pre-training"):
        TinyRun(tmp_path, loop={"micro_batch": 2}).build()


def test_bf16_runs_and_stays_finite(tmp_path: Path) -> None:
    AcceleratorState._reset_state()
    try:
        TinyRun(tmp_path, loop={"epochs": 1, "precision": "bf16"}).go()
    finally:
        AcceleratorState._reset_state()
    assert len(of_kind(tmp_path, "step")) == 5
