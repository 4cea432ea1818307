"""Numbers that are not finite never reach the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.tiny import GRIT, RANDOM, TinyRun
from truepair.engine.logs.log import read_log
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.engine.loop.update import NonFiniteError
from truepair.sampling.batches import SamplerConfig


def poisoned_step(folder: Path) -> int:
    """The step of epoch 1 in which sample 5 comes, counted from 1."""
    (record, *_) = read_log(folder / "bad_batches.jsonl")
    return int(record["step"])


def test_a_bad_loss_aborts_before_the_update(tmp_path: Path) -> None:
    loop = TinyRun(tmp_path, loop={"checkpoint_every": 1}, poisoned_epoch=1).build()
    with pytest.raises(NonFiniteError, match=r"step \d+ has a loss or gradient that is not finite \(loss nan, itc nan"):
        loop.run()
    step = poisoned_step(tmp_path)
    assert 5 < step <= 10
    assert loop.store.newest(print) is not None
    saved = load_file(loop.store.path(step - 1) / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in loop.model.state_dict().items())
    records = read_log(tmp_path / "bad_batches.jsonl")
    assert [len(record["index"]) for record in records] == [4] * len(records)
    assert 5 in [index for record in records for index in record["index"]]
    bad = next(record for record in records if 5 in record["index"])
    assert bad["losses"]["itc"] is None and bad["gradient_norm"] is None  # JSON has no NaN


@pytest.mark.parametrize("sampler", [GRIT, RANDOM])
def test_a_bad_step_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, sampler: SamplerConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = TinyRun(tmp_path, loop={"on_non_finite": "skip", "max_skipped": 1}, poisoned_epoch=1, sampler=sampler)
    result = run.go()
    assert result.steps == 15
    told = " ".join(capsys.readouterr().err.split())
    assert "and is left out, number 1 of at most 1; its pairs are in" in told
    step = poisoned_step(tmp_path)
    kinds = [record["kind"] for record in read_log(tmp_path / "log.jsonl") if record["step"] == step]
    assert kinds[0] == "skipped"
    assert all(value.isfinite().all() for value in load_file(result.model_folder / "model.safetensors").values())


def test_too_many_skipped_steps_are_too_many(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, loop={"on_non_finite": "skip", "max_skipped": 2}, learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"number 3 of its kind; loop\.max_skipped is 2"):
        run.go()


def test_an_endless_gradient_is_noticed_where_the_loss_is_finite(tmp_path: Path) -> None:
    loop = TinyRun(tmp_path).build()
    loop.model.image.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match=r"loss \d.*gradient norm (inf|nan)"):
        loop.run()
    assert loop.done == 1


def test_a_figure_of_the_log_that_is_not_finite_is_null_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = TinyRun(tmp_path, loop={"log_every": 1}).build()
    forward = loop.bare_step.forward

    def with_a_figure(batch: Any, info: StepInfo) -> StepOutput:
        output = forward(batch, info)
        return output._replace(losses={**output.losses, "bound": torch.tensor(-torch.inf)})

    loop.bare_step.forward = with_a_figure  # type: ignore[method-assign]
    loop.run()
    assert {record["bound"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"} == {None}
    assert capsys.readouterr().err.count("bound of step 1 is -inf, which is null in log.jsonl") == 1
