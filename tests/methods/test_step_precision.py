"""A float32 step makes no float64 on its device: Apple's MPS has none."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import truepair
from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import info

SOURCE = Path(truepair.__file__).parent
ON_THE_HOST = {"objectives/bounds.py", "engine/logs/measure.py"}  # they bring to the host, or to float32, first


class Float64Makers(TorchDispatchMode):
    """Collects the files of ours that make float64 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and look at its results."""
        made = func(*args, **(kwargs or {}))
        results = made if isinstance(made, (tuple, list)) else (made,)
        if any(isinstance(result, Tensor) and result.dtype == torch.float64 for result in results):
            ours = [Path(call.filename) for call in traceback.extract_stack()]
            inside = [file for file in ours if file.is_relative_to(SOURCE)]
            if inside:
                self.files.add(inside[-1].relative_to(SOURCE).as_posix())
        return made


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_float32_step_makes_no_float64(name: str) -> None:
    step = replace(COMPOSITIONS[name], dtype=torch.float32).build()
    with Float64Makers() as makers:
        for number, batch in enumerate(BATCHES):
            assert batch.pixel_values is not None
            output = step(replace(batch, pixel_values=batch.pixel_values.float()), info(number, logged=True))
            output.losses["loss"].backward()
            step.after_update(info(number))
    assert makers.files <= ON_THE_HOST
    # The mode sees what there is.
    assert ("objectives/bounds.py" in makers.files) == (step.objectives.itc.loss == "softmax")
