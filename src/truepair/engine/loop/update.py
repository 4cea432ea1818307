"""One optimizer step: forward, backward, a look at what came out on all ranks, and the update of the weights."""

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.distributed.sharding import adapter_pairs, give_up_foreign, is_sharded, settle_gradients, whole
from truepair.engine.logs.log import JsonlLog
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.optimizer import OptimizerConfig, learning_rate_at, set_learning_rate
from truepair.engine.loop.step import StepInfo, StepOutput, TrainingBatch, TrainingStep
from truepair.errors import TruepairError
from truepair.sampling.batches import hardest_similarity

SLOW_FORWARD = 0.5
"""Seconds of a forward pass on the CPU that is worth a look for memory to give back, which takes hundredths."""

LEAST_FREE = 0.2
"""Free memory worth giving back, as a share of that in use. The step has to ask for it again, page by page: in a small
CLIP, whose forward pass leaves few free blocks, that took a twelfth of the time and spared 2 % of the peak."""


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step leaves behind.

    Attributes:
        outputs: what the step computed, batch by batch.
        finite: whether loss and gradients were finite on all ranks; otherwise nothing was updated.
        gradient_norm: over all trainable weights, before clipping.
        hardest_similarity: of the hardest negative in a batch, mean over pairs and ranks; NaN without features or
            without a negative.
        requests: what the processes asked for on the way, as numbers summed over ranks.
        rewards: fall of the sampler's loss over the update for each batch, mean over ranks; None if not measured.
    """

    outputs: list[StepOutput]
    finite: bool
    gradient_norm: float
    hardest_similarity: float
    requests: dict[str, float]
    rewards: list[float] | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """Losses of this rank, mean over the batches that have them: not every batch has all."""
        parts = [output.losses for output in self.outputs]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.stack([part[name].detach() for part in parts if name in part]).mean() for name in names}


class OptimizerStep:
    """Takes optimizer steps.

    Args:
        step: the losses, as prepared by ``accelerator``.
        optimizer: as prepared by ``accelerator``.
        accelerator: device, precision and ranks.
        config: learning rate and clipping.
        average: follows the weights, if there is one.
    """

    def __init__(
        self,
        step: nn.Module,
        optimizer: AcceleratedOptimizer,
        accelerator: Accelerator,
        config: OptimizerConfig,
        average: WeightAverage | None,
    ) -> None:
        self.step = step
        self.bare_step: TrainingStep = accelerator.unwrap_model(step)
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.config = config
        self.average = average
        # Walking through all modules for them took a tenth of a step on cached states.
        named = {name: weight for name, weight in step.named_parameters() if weight.requires_grad}
        self.trainable = list(named.values())
        self.adapters = adapter_pairs(named)
        self.sharded = is_sharded(step)

    def take(
        self, batches: Sequence[TrainingBatch], info: StepInfo, requests: Callable[[], dict[str, float]]
    ) -> StepResult:
        """Take one step on some batches, unless a loss or gradient is not finite on any rank.

        Args:
            batches: this rank's batches; their losses are averaged.
            info: where the run stands.
            requests: returns numbers to be summed over all ranks on the way; called as late as can be.
        """
        set_learning_rate(self.optimizer, learning_rate_at(info.step, info.total_steps, self.config))
        outputs = [self._differentiate(batch, info, len(batches), last=batch is batches[-1]) for batch in batches]
        if self.sharded:
            settle_gradients(self.trainable, self.adapters)
        gradient = whole(self.accelerator.clip_grad_norm_(self.trainable, self.config.clip_norm or math.inf))
        hardest, norm, *losses = _on_host(
            [_hardest(outputs), gradient, *(output.losses["loss"].detach() for output in outputs)]
        )
        sound = math.isfinite(sum(losses)) and (math.isfinite(norm) or self._overflows())
        shared = hardest / self.accelerator.num_processes
        summed = sum_over_ranks({"bad": float(not sound), "hardest": shared, **requests()})
        finite = not summed.pop("bad")
        rewards = None
        if finite:
            before = self._sampler_losses(batches, info) if info.rewarded else None
            self.optimizer.step()
            if math.isfinite(norm):  # else the scaler has left it out; of a fused optimizer, accelerate cannot tell
                self.bare_step.after_update(info)
                if self.average is not None:
                    self.average.update()
            if before is not None:
                after = self._sampler_losses(batches, info)
                rewards = [then - now for then, now in zip(before, after, strict=True)]
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(outputs, finite, norm, summed.pop("hardest"), summed, rewards)

    @torch.no_grad()
    def _sampler_losses(self, batches: Sequence[TrainingBatch], info: StepInfo) -> list[float]:
        """What the sampler learns from, of each batch with the present weights and without dropout; mean over ranks."""
        info = info._replace(measures=True)
        device, ranks = self.accelerator.device, self.accelerator.num_processes
        self.step.eval()
        with self.accelerator.autocast():
            losses = [self.step(batch.to(device), info).losses["loss"].float() for batch in batches]
        give_up_foreign(self.step)
        self.step.train()
        shares = {str(number): loss / ranks for number, loss in enumerate(_on_host(losses))}
        return list(sum_over_ranks(shares).values())

    def _overflows(self) -> bool:
        """Whether gradients may be endless for want of range: fp16's scaler leaves such a step out and falls."""
        return self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() > 1.0

    def _differentiate(self, batch: TrainingBatch, info: StepInfo, count: int, *, last: bool) -> StepOutput:
        """Add the gradient of one of ``count`` batches; ranks exchange gradients after the last."""
        quiet = contextlib.nullcontext() if last else self.accelerator.no_sync(self.step)
        with quiet:
            started = time.monotonic()
            with self.accelerator.autocast():
                # A copy from page-locked memory need not be waited for; without a GPU there is none.
                device = self.accelerator.device
                output: StepOutput = self.step(batch.to(device, non_blocking=device.type == "cuda"), info)
            if self.accelerator.device.type == "cpu" and time.monotonic() - started > SLOW_FORWARD:
                release_free_memory(LEAST_FREE)
            self.accelerator.backward(output.losses["loss"] / count)
        return output


def _hardest(outputs: Sequence[StepOutput]) -> Tensor:
    """Mean similarity of the hardest negatives of some batches, a scalar; NaN without features or negatives."""
    means = []
    for output in outputs:
        if output.image_feature is None or output.text_feature is None:
            return output.losses["loss"].detach().new_tensor(math.nan)
        means.append(hardest_similarity(output.image_feature.float(), output.text_feature.float()).mean())
    mean = torch.stack(means).mean()
    return torch.where(mean.isfinite(), mean, math.nan)  # a batch of one pair has no negative


def _on_host(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalars of one device, for which a device is waited for once and not for each."""
    values: list[float] = torch.stack([scalar.reshape(()) for scalar in scalars]).tolist()
    return values


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

    def record(self, step: int, batches: list[TrainingBatch], losses: list[dict[str, Tensor]], norm: float) -> str:
        """Write the batches of a bad step with their loss parts, null where they are not finite; and say which.

        Args:
            step: the step, counted from 1.
            batches: its batches on this rank.
            losses: their losses.
            norm: gradient norm over all ranks.

        Returns:
            What the step was left out for, a line.

        Raises:
            NonFiniteError: the policy is to abort, or too many steps have been skipped.
        """
        with JsonlLog(self.path) as log:
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
        return f"{line}, and is left out, number {self.skipped} of at most {self.cap}; its pairs are in {self.path}"

    def rewind(self, step: int, say: Callable[[str], object]) -> None:
        """Forget what was written after a step, which a resumed run does again; damage of the file is said."""
        if self.path.exists():
            with JsonlLog(self.path) as log:
                log.rewind(step, say)


def _ids(batch: TrainingBatch) -> dict[str, Any]:
    """The ids of a batch: its one-dimensional integer tensors."""
    return {
        name: value.tolist()
        for name, value in vars(batch).items()
        if isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    }


def release_free_memory(least: float = 0.0) -> None:
    """Give free blocks of memory back to the system, where the C library can (glibc): a few hundredths of a second.

    This guards the peak of a step's memory on a CPU. The forward pass leaves free blocks between the activations, too
    small for what the backward pass makes; that would be laid above them, while they stay with the process unused.

    Args:
        least: leave everything as it is where free blocks are a smaller share of those in use than this.
    """
    trim = _malloc_trim()
    if trim is not None and (least == 0.0 or _free_share() >= least):
        trim(0)


def _free_share() -> float:
    """Free blocks of the C library's heap as a share of those in use; infinite where it does not say (glibc < 2.33)."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return math.inf
    ask.restype = _HeapFigures
    figures = ask()
    return float(figures.fordblks / max(figures.uordblks, 1))


class _HeapFigures(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
