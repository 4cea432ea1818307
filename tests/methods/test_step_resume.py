"""A step that is saved in the middle of an epoch and loaded goes on as if nothing had happened."""

from pathlib import Path

import pytest
import torch

from tests.methods.steps import HALF_MASKED, Composition, ecm, info, pairs, remembering, verdicts
from truepair.errors import CheckpointError
from truepair.methods.momentum import MomentumConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import MlmConfig, ObjectivesConfig, PretrainStep
from truepair.objectives.srcl import CalibrationConfig, RegulationConfig
from truepair.relations.ledger import Ledger, read_ledger

BATCHES = [pairs([(8 * number + row) % 13 for row in range(8)], seed=number) for number in range(6)]
STOP = 3


def composed(folder: Path, *, srcl: bool, queue: int = 20) -> PretrainStep:
    regulated = SrclConfig(
        weights=RegulationConfig("softmax"), alpha=0.5, seed_model="seed", calibrate=CalibrationConfig()
    )
    return Composition(
        ObjectivesConfig(mlm=MlmConfig(masking=HALF_MASKED)),
        ecm=ecm(),
        judge=lambda: remembering(verdicts()),
        srcl=regulated if srcl else None,
        momentum=MomentumConfig(queue_size=0 if srcl else queue, decay=0.5),
        ledger=Ledger(folder),
    ).build()


def train(step: PretrainStep, first: int, last: int) -> list[float]:
    losses = []
    for number in range(first, last):
        step.zero_grad()
        loss = step(BATCHES[number], info(number)).losses["loss"]
        loss.backward()
        with torch.no_grad():
            for parameter in step.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        step.after_update(info(number))
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("srcl", [False, True])
def test_exactly_as_if_it_had_not_stopped(tmp_path: Path, srcl: bool) -> None:
    folders = [tmp_path / name for name in ("whole", "stopped")]
    whole = composed(folders[0], srcl=srcl)
    losses = train(whole, 0, 6)
    stopped = composed(folders[1], srcl=srcl)
    assert train(stopped, 0, STOP) == losses[:STOP]
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    stopped.save_state(checkpoint)
    weights = {name: value.clone() for name, value in stopped.model.state_dict().items()}
    train(stopped, STOP, 5)  # what a run does after its last checkpoint, and loses
    stopped.close()
    resumed = composed(folders[1], srcl=srcl)
    resumed.model.load_state_dict(weights)
    resumed.load_state(checkpoint)
    assert train(resumed, STOP, 6) == losses[STOP:]
    for step in (whole, resumed):
        step.close()
    assert read_ledger(folders[0]).equals(read_ledger(folders[1]))
    for name, tensor in whole.momentum.tensors().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, resumed.momentum.tensors()[name]), name  # type: ignore[union-attr]
    saved = [step.ecm.memory.memory.state_dict() for step in (whole, resumed)]  # type: ignore[union-attr]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    figures = whole.epoch_figures(0)
    assert resumed.epoch_figures(0) == figures and figures["ecm/memory_hits"] > 0


def test_a_queue_of_another_length_is_named(tmp_path: Path) -> None:
    composed(tmp_path / "one", srcl=False).save_state(tmp_path)
    with pytest.raises(CheckpointError, match="another momentum model or queue"):
        composed(tmp_path / "two", srcl=False, queue=8).load_state(tmp_path)
