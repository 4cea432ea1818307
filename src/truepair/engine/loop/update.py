"""One optimizer step: forward, backward, a look at what came out on all ranks, and the update."""

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.distributed.sharding import is_sharded, settle_gradients, whole
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.optimizer import OptimizerConfig, learning_rate_at, set_learning_rate
from truepair.engine.loop.step import StepInfo, StepOutput, TrainingBatch, TrainingStep
from truepair.sampling.batches import hardest_similarity


def release_free_memory() -> None:
    """Give free blocks back to the system, where the C library can (glibc): a few hundredths of a second.

    Between the forward and the backward pass of a step on the CPU, these are the holes that the forward pass has left
    between the activations; the backward pass would begin above them.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None


SLOW_FORWARD = 0.5
"""Seconds of a forward pass on the CPU that is worth a look for memory to give back, which takes hundredths."""


@dataclass(frozen=True)
class Update:
    """What an optimizer step leaves.

    Attributes:
        outputs: what the step computed, batch by batch.
        finite: whether loss and gradients were finite on all ranks; otherwise nothing was updated.
        gradient_norm: over all trainable weights, before clipping.
        hardest_similarity: of the hardest negative in a batch, mean over pairs and ranks; NaN without features.
        wishes: the loop's own numbers, summed over ranks.
    """

    outputs: list[StepOutput]
    finite: bool
    gradient_norm: float
    hardest_similarity: float
    wishes: dict[str, float]

    @property
    def losses(self) -> dict[str, Tensor]:
        """Losses of this rank, mean over the batches that have them: some need a false negative."""
        parts = [output.losses for output in self.outputs]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.stack([part[name].detach() for part in parts if name in part]).mean() for name in names}


class Updater:
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
        self.trainable = [parameter for parameter in step.parameters() if parameter.requires_grad]
        self.sharded = is_sharded(step)

    def take(self, batches: Sequence[TrainingBatch], info: StepInfo, wishes: Callable[[], dict[str, float]]) -> Update:
        """Take one step on some batches, unless a loss or gradient is not finite on any rank.

        Args:
            batches: this rank's batches; their losses are averaged.
            info: where the run stands.
            wishes: returns numbers to be summed over all ranks on the way; asked as late as can be.
        """
        set_learning_rate(self.optimizer, learning_rate_at(info.step, info.total_steps, self.config))
        outputs = [self._differentiate(batch, info, len(batches), last=batch is batches[-1]) for batch in batches]
        if self.sharded:
            settle_gradients(self.trainable)
        norm = float(whole(self.accelerator.clip_grad_norm_(self.trainable, self.config.clip_norm or math.inf)))
        loss = sum(float(output.losses["loss"].detach()) for output in outputs)
        sound = math.isfinite(loss) and (math.isfinite(norm) or self._overflows())
        hardest = _hardest(outputs) / self.accelerator.num_processes
        total = sum_over_ranks({"bad": float(not sound), "hardest": hardest, **wishes()}, self.accelerator.device)
        finite = not total.pop("bad")
        if finite:
            self.optimizer.step()
            if math.isfinite(norm):  # else the scaler has left it out; of a fused optimizer, accelerate cannot tell
                self.bare_step.after_update(info)
                if self.average is not None:
                    self.average.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Update(outputs, finite, norm, total.pop("hardest"), total)

    def _overflows(self) -> bool:
        """Whether gradients may be endless for want of range: fp16's scaler leaves such a step out and falls."""
        return self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() > 1.0

    def _differentiate(self, batch: TrainingBatch, info: StepInfo, count: int, *, last: bool) -> StepOutput:
        """Add the gradient of one of ``count`` batches; ranks exchange gradients after the last."""
        quiet = contextlib.nullcontext() if last else self.accelerator.no_sync(self.step)
        with quiet:
            started = time.monotonic()
            with self.accelerator.autocast():
                output: StepOutput = self.step(batch.to(self.accelerator.device), info)
            if self.accelerator.device.type == "cpu" and time.monotonic() - started > SLOW_FORWARD:
                release_free_memory()
            self.accelerator.backward(output.losses["loss"] / count)
        return output


def _hardest(outputs: Sequence[StepOutput]) -> float:
    """Mean similarity of the hardest negatives of some batches."""
    means = []
    for output in outputs:
        if output.image_feature is None or output.text_feature is None:
            return math.nan
        means.append(hardest_similarity(output.image_feature.float(), output.text_feature.float()).mean())
    return float(torch.stack(means).mean())
