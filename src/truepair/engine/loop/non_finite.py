"""Losses and gradients that are not finite: written down, then the end of the run or one step less."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truepair.engine.logs.log import RunLog
from truepair.engine.loop.step import TrainingBatch
from truepair.errors import TruepairError


class NonFiniteError(TruepairError):
    """A loss or gradient is not finite, and the recipe says to stop."""


class BadBatches:
    """Writes bad batches to ``bad_batches.jsonl`` and decides whether the run goes on.

    Args:
        folder: the run folder; each rank but the first has a file of its own.
        rank: this process.
        policy: "abort" or "skip".
        cap: how many steps may be skipped in all.

    Attributes:
        skipped: steps skipped so far.
    """

    def __init__(self, folder: Path, rank: int, *, policy: str, cap: int) -> None:
        name = "bad_batches.jsonl" if rank == 0 else f"bad_batches-{rank}.jsonl"
        self.path = folder / name
        self.policy = policy
        self.cap = cap
        self.skipped = 0

    def record(self, step: int, batches: list[TrainingBatch], losses: list[dict[str, Tensor]], norm: float) -> None:
        """Write the batches of a bad step with their loss parts.

        Args:
            step: the step, counted from 1.
            batches: its batches on this rank.
            losses: their losses.
            norm: gradient norm over all ranks.

        Raises:
            NonFiniteError: the policy is to abort, or too many steps have been skipped.
        """
        with RunLog(self.path) as log:
            for batch, parts in zip(batches, losses, strict=True):
                values = {name: float(value.detach()) for name, value in parts.items()}
                log.write("bad batch", step, losses=values, gradient_norm=norm, **_ids(batch))
        self.skipped += 1
        worst = next((parts for parts in losses if not parts["loss"].isfinite()), losses[0])
        shown = ", ".join(f"{name} {float(value.detach()):g}" for name, value in worst.items())
        line = f"step {step} has a loss or gradient that is not finite ({shown}, gradient norm {norm:g})"
        if self.policy == "abort":
            raise NonFiniteError(
                f"{line}; its pairs are in {self.path}. The last checkpoint is untouched: lower the learning rate, "
                "set optimizer.clip_norm, or go on with loop.on_non_finite skip"
            )
        if self.skipped > self.cap:
            raise NonFiniteError(
                f"{line}, number {self.skipped} of its kind; loop.max_skipped is {self.cap}. See {self.path}"
            )

    def rewind(self, step: int) -> None:
        """Forget what was written after a step, which a resumed run does again."""
        if self.path.exists():
            with RunLog(self.path) as log:
                log.rewind(step)


def _ids(batch: TrainingBatch) -> dict[str, Any]:
    """The ids of a batch: its one-dimensional integer tensors."""
    return {
        name: value.tolist()
        for name, value in vars(batch).items()
        if isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    }
