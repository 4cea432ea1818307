"""fp16 with its loss scaler, on a CPU: accelerate refuses it there, so the tests put its parts together themselves."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.engine.processes import Fault
from tests.engine.tiny import TinyRun, remains
from truepair.engine.loop import loop as loop_module
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.update import NonFiniteError, StepResult

HALVED = 2.0**22  # times a loss near 1, beyond the range of fp16 until it was halved some times


@pytest.fixture(autouse=True)
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(config: LoopConfig, run_folder: Path) -> Accelerator:
        accelerator = Accelerator(cpu=config.cpu, project_dir=run_folder)
        monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=HALVED, growth_interval=4)
        return accelerator

    monkeypatch.setattr(loop_module, "build_accelerator", build)


def test_steps_that_overflow_are_left_out_and_the_scale_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = TinyRun(tmp_path).build()
    take, seen = loop.optimizer_step.take, []

    def state() -> list[torch.Tensor]:
        assert loop.average is not None
        return [value.clone() for value in [*loop.bare_step.state_dict().values(), *loop.average.tensors().values()]]

    def watched(*arguments: object) -> StepResult:
        scale, before = loop.accelerator.scaler.get_scale(), state()
        update = take(*arguments)  # type: ignore[arg-type]
        moved = [not torch.equal(old, new) for old, new in zip(before, state(), strict=True)]
        seen.append((loop.accelerator.scaler.get_scale() / scale, update.gradient_norm, moved))
        return update

    monkeypatch.setattr(loop.optimizer_step, "take", watched)
    loop.run()
    left_out = [factor == 0.5 for factor, *_ in seen]
    assert left_out[0] and not all(left_out)
    for factor, norm, moved in seen:
        assert torch.tensor(norm).isfinite() == (factor >= 1.0)
        assert any(moved) == all(moved) == (factor >= 1.0)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = TinyRun(tmp_path / "whole"), TinyRun(tmp_path / "stopped")
    whole.go()
    with monkeypatch.context() as patch:
        Fault("truepair.engine.loop.update:_hardest", 9, kind=0).arm(patch.setattr)
        with pytest.raises(RuntimeError, match="struck"):
            stopped.go()
    stopped.go()
    assert remains(stopped.folder) == remains(whole.folder)


def test_gradients_that_are_endless_at_any_scale_end_the_run(tmp_path: Path) -> None:
    loop = TinyRun(tmp_path, loop={"epochs": 9}).build()
    loop.model.image.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match=r"gradient norm (inf|nan)"):
        loop.run()
    assert loop.accelerator.scaler.get_scale() == 1.0
