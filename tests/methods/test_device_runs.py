"""Whole runs on a GPU: precisions, resumption, compiled layers, adapters, with GRIT's sampler and all rules."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.device import DEVICE, repeatable
from tests.methods.test_adapted_runs import AdaptedRun
from tests.methods.test_dual_encoder import HubRun, stop_and_go_on, weights
from truepair.engine.distributed import accelerator
from truepair.engine.distributed.accelerator import compile_layers, has_compiler
from truepair.engine.logs.log import read_log

pytestmark = pytest.mark.gpu

HERE: dict[str, Any] = {"cpu": DEVICE.type == "cpu"}


@pytest.fixture(autouse=True)
def forgotten_precision() -> Iterator[None]:
    """Accelerate has one device and one precision a process, and is to forget those of other tests."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def logged(folder: Path, name: str) -> list[Any]:
    """A value of each step of a run."""
    return [record[name] for record in read_log(folder / "log.jsonl") if record["kind"] == "step"]


@pytest.mark.parametrize(("momentum", "loss"), [(False, "softmax"), (True, "softmax"), (True, "sigmoid")])
def test_a_stopped_run_ends_with_the_same_bits(
    squares: Path, tmp_path: Path, momentum: bool, loss: Literal["softmax", "sigmoid"]
) -> None:
    options: dict[str, Any] = {"momentum": momentum, "loss": loss, "loop": {**HERE, "precision": "bf16"}}
    with repeatable():
        HubRun(squares, tmp_path / "whole", **options).build().run()
        stop_and_go_on(HubRun(squares, tmp_path / "stopped", **options))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert logged(tmp_path / "whole", "loss") == logged(tmp_path / "stopped", "loss")


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_the_loss_falls_in_every_precision(squares: Path, tmp_path: Path, precision: str) -> None:
    if precision == "fp16" and DEVICE.type == "cpu":
        pytest.skip("accelerate has fp16 on a GPU alone; tests/engine/test_half_precision.py has its loop on a CPU")
    loop = AdaptedRun(squares, tmp_path / "run", lora=None, loop={**HERE, "precision": precision, "epochs": 6}).build()
    scaler = loop.accelerator.scaler
    scale = scaler.get_scale() if scaler is not None else 1.0
    loop.run()
    losses = logged(tmp_path / "run", "loss")
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    left_out = sum(norm is None for norm in logged(tmp_path / "run", "gradient_norm"))
    assert left_out < len(losses) / 2
    if scaler is not None:  # every step that it left out has halved it
        assert scaler.get_scale() == scale * 0.5**left_out


@pytest.mark.parametrize("options", [{}, {"micro_batch": 5}, {"loop": {"gradient_checkpointing": True}}])
def test_an_adapter_trains(squares: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {**options, "loop": {**HERE, "epochs": 4, **options.get("loop", {})}}
    AdaptedRun(squares, tmp_path / "run", **options).build().run()
    losses = logged(tmp_path / "run", "loss")
    assert sum(losses[-3:]) < sum(losses[:3])
    assert (tmp_path / "run/model/adapter_model.safetensors").exists()


@pytest.mark.timeout(600)
@pytest.mark.skipif(DEVICE.type == "cuda" and not has_compiler(), reason="no C++ compiler")
def test_a_compiled_run_is_the_plain_run(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE.type == "cpu":  # where it takes minutes; the layers are traced alone
        monkeypatch.setattr(accelerator, "compile_layers", functools.partial(compile_layers, backend="eager"))
    with repeatable():
        for name in ("plain", "compiled"):
            options = {**HERE, "epochs": 1, "compile": name == "compiled"}
            AdaptedRun(squares, tmp_path / name, lora=None, loop=options).build().run()
    plain, compiled = (logged(tmp_path / name, "loss") for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-2)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-4)
