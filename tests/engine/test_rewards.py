"""The loop tells a sampler that learns what each step gained: the fall of a loss over the update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from tests.engine.processes import Fault, run_in_process
from tests.engine.tiny import GRIT, TinyBatch, TinyRun, TinyStep, remains
from truepair.engine.logs.log import read_log
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.errors import ConfigError
from truepair.sampling.batches import SamplerConfig
from truepair.sampling.falcon import FalconConfig, LearnedHardness
from truepair.sampling.hardness import HardnessConfig

LEARNED = SamplerConfig(
    kind="grit",
    queue_size=20,
    search_space=12,
    hardness=HardnessConfig(learned=FalconConfig(learning_rate=0.05, start=0.6, points=4)),
)


class RewardedStep(TinyStep):
    """Rewarded from epoch 1 on by a loss of its own: the distance of the two towers' outputs."""

    def reward_loss(self, epoch: int) -> str:
        return "the distance" if epoch else ""

    def forward(self, batch: TinyBatch, info: StepInfo) -> StepOutput:
        if not info.measures:
            return super().forward(batch, info)
        assert not self.training
        return StepOutput({"loss": distance(self.model, batch)})


@torch.no_grad()
def distance(model: Any, batch: TinyBatch) -> torch.Tensor:
    image, text = normalize(model.image(batch.image), dim=1), normalize(model.text(batch.text), dim=1)
    return (image - text).square().sum(dim=1).mean()


def run(folder: Path, **fields: Any) -> TinyRun:
    return TinyRun(folder, sampler=LEARNED, step=RewardedStep, **fields)


def test_the_reward_is_the_fall_over_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = run(tmp_path).build()
    take, told, expected = type(loop.optimizer_step).take, [], []

    def record(self: Any, batches: Any, *rest: Any) -> Any:
        before = [distance(loop.model, batch).item() for batch in batches]
        result = take(self, batches, *rest)
        after = [distance(loop.model, batch).item() for batch in batches]
        assert loop.step.training
        expected.append([a - b for a, b in zip(before, after, strict=True)])
        told.append(result.rewards)
        return result

    monkeypatch.setattr(type(loop.optimizer_step), "take", record)
    learnt: list[float] = []
    monkeypatch.setattr(LearnedHardness, "learn", lambda self, samples, reward: learnt.append(reward))
    loop.run()
    assert told[:5] == [None] * 5  # the random epoch
    for rewards, falls in zip(told[5:], expected[5:], strict=True):
        assert rewards == pytest.approx(falls, abs=1e-6)
    assert learnt == [reward for rewards in told[5:] for reward in rewards]
    steps = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert ["hardness_reward" in record for record in steps] == [False] * 5 + [True] * 10
    assert steps[5]["hardness_reward"] == pytest.approx(sum(told[5]) / 2)


def test_a_run_that_is_killed_goes_on_exactly(tmp_path: Path) -> None:
    assert run_in_process(run(tmp_path / "whole"))[0] == 0
    for call in (8, 4):  # at step 8, then at step 10: a checkpoint every third step
        fault = Fault("truepair.engine.loop.update:_hardest", call)
        assert run_in_process(run(tmp_path / "killed"), fault)[0] < 0
    assert run_in_process(run(tmp_path / "killed"))[0] == 0
    assert remains(tmp_path / "killed") == remains(tmp_path / "whole")
    epochs = [record for record in read_log(tmp_path / "whole" / "log.jsonl") if record["kind"] == "epoch"]
    assert "hardness_quantile" not in epochs[0]
    assert all(0 < record["hardness_quantile_p10"] < record["hardness_quantile_p90"] < 1 for record in epochs[1:])


def test_it_is_measured_as_often_as_asked_for(tmp_path: Path) -> None:
    sparse = SamplerConfig(
        kind="grit", queue_size=20, search_space=12, hardness=HardnessConfig(learned=FalconConfig(every=3))
    )
    TinyRun(tmp_path, sampler=sparse, step=RewardedStep).go()
    steps = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert [record["step"] for record in steps if "hardness_reward" in record] == [7, 10, 13]


def test_a_step_without_such_a_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hardness\.learned learns from the fall of the MLM loss, which this run"):
        TinyRun(tmp_path, sampler=LEARNED).go()


def test_another_hardness_measures_nothing(tmp_path: Path) -> None:
    TinyRun(tmp_path, sampler=GRIT, step=RewardedStep).go()
    assert not any("hardness_reward" in record for record in read_log(tmp_path / "log.jsonl"))
