"""The engine trains any step: ten lines, without features or state, are stopped and go on bit for bit."""

from pathlib import Path

import pytest

from tests.engine.processes import Fault
from tests.engine.tiny import RANDOM, TinyBatch, TinyRun, remains
from truepair.engine.logs.log import read_log
from truepair.engine.loop.step import StepInfo, StepOutput, TrainingStep


class ToyStep(TrainingStep):
    """From an image to its text."""

    def forward(self, batch: TinyBatch, info: StepInfo) -> StepOutput:
        error = self.model.text(self.model.image(batch.image)) - batch.text
        return StepOutput({"loss": error.square().mean()})


def test_a_toy_step_is_trained_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = (TinyRun(tmp_path / name, step=ToyStep, sampler=RANDOM) for name in ("whole", "stopped"))
    whole.go()
    losses = [record["loss"] for record in read_log(whole.folder / "log.jsonl") if record["kind"] == "step"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    with monkeypatch.context() as patch:
        Fault("truepair.engine.loop.update:_hardest", 8, kind=0).arm(patch.setattr)
        with pytest.raises(RuntimeError, match="struck"):
            stopped.go()
    assert stopped.last_checkpoint().name == "step-00000006"
    stopped.go()
    assert remains(stopped.folder) == remains(whole.folder)
