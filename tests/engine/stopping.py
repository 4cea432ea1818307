"""A run that dies in a stated step, in the process of the test."""

from typing import Any

import pytest

from truepair.engine.loop.loop import TrainingLoop


def die_in_step(loop: TrainingLoop, step: int) -> None:
    """Let a run go until it dies in a step, counted from 1 in this call."""
    take, calls = loop.optimizer_step.take, []

    def stop(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return take(*arguments)

    loop.optimizer_step.take = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run()
