"""The contract between what is trained and the loop that trains it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class StepInfo(NamedTuple):
    """Where a run stands when a step begins.

    Attributes:
        epoch: Epoch, counted from 0.
        step: Finished optimizer steps.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.
        logged: Whether figures of this step go to the log, so that costly ones are worth computing.
        rewarded: Whether the sampler learns from this step; see ``TrainingStep.reward_loss``.
        measures: Whether this is no step, but only measures for that.
    """

    epoch: int
    step: int
    total_steps: int
    steps_per_epoch: int
    logged: bool = False
    rewarded: bool = False
    measures: bool = False

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / self.total_steps


class StepOutput(NamedTuple):
    """What a step hands to the loop.

    Attributes:
        losses: Scalars: ``loss`` (to be minimised), its parts, and whatever else is worth a line in the log.
        image_feature: L2-normalised image features of this rank's pairs, for the sampler's queue [B, E]; None where a
            step computes none (grouped sampling needs them).
        text_feature: Text features of the same pairs [B, E].
        probable: Pairs of rows that the step found to match probably, for a sampler that keeps such apart, int64
            [P, 2]; the same on all ranks. None where it was not asked.
    """

    losses: dict[str, Tensor]
    image_feature: Tensor | None = None  # [B, E]
    text_feature: Tensor | None = None  # [B, E]
    probable: Tensor | None = None  # [P, 2]


class TrainingBatch(Protocol):
    """What the loop reads of a batch: a dataclass such as ``PairBatch``."""

    @property
    def index(self) -> Tensor:
        """Rows that were asked for, int64 [B]."""
        ...

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered, int64 [B]; another one where a sample could not be read."""
        ...

    @property
    def reasons(self) -> list[str]:
        """Why a row was substituted, or empty [B]."""
        ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on a device."""
        ...


class TrainingStep(nn.Module):
    """The losses of a batch, and all that a run must keep beside the weights of the model.

    A subclass writes :meth:`forward`. The other methods have plain defaults; the loop calls them on every rank, in the
    order: forward, backward, optimizer step, ``after_update``, and once an epoch ``epoch_figures``. Of the model the
    loop knows nothing: which weights have learning rates of their own, and which modules may be gathered layer by
    layer, the step says in :meth:`part_of`, :meth:`layers_above` and :meth:`gathered_by_layer`.

    What randomness a step needs it draws from the global generator, which the loop seeds by (seed, step, rank), or from
    keys of the samples; so nothing of it has to be saved.

    Args:
        model: What is trained and saved with ``save_pretrained``. Modules that are assigned to the step beside it
            (a momentum encoder, a judge) are the step's own to save.
    """

    micro_batch: int = 0
    """Pairs whose activations a step holds at once; 0 where a step takes the batch as a whole."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, info: StepInfo) -> StepOutput:
        """Compute the losses of a batch on its device.

        Args:
            batch: What the run's collator made.
            info: Where the run stands.
        """
        raise NotImplementedError

    def part_of(self, name: str) -> str:
        """Name the part of the model that a weight belongs to; all weights of a part have one peak learning rate.

        ``OptimizerConfig.peak`` says which. Here all belong to one part, the empty name.

        Args:
            name: Of the weight, as ``named_parameters`` of the step has it.
        """
        return ""

    def layers_above(self, name: str) -> int:
        """How many layers stand between a weight and the end of its part, for ``optimizer.layer_decay``; here none.

        Args:
            name: Of the weight, as ``named_parameters`` of the step has it.
        """
        return 0

    def gathered_by_layer(self) -> list[nn.Module]:
        """Modules whose transformer layers every rank calls equally often, whatever its batch holds.

        With ``loop.shard`` the weights of their layers are gathered one layer at a time; all others once a step, since
        ranks that call a layer more or less often would wait for each other forever. Here none.
        """
        return []

    def after_update(self, info: StepInfo) -> None:
        """Follow the weights after an optimizer step: clamp the temperature, move a momentum encoder.

        Args:
            info: The same as in the forward pass of this step.
        """

    def reward_loss(self, epoch: int) -> str:
        """Name the loss whose fall over a step tells the sampler how good its batch was; empty where there is none.

        :meth:`forward` is then called without gradient before and after the update, with ``info.measures`` set, and
        returns that loss of the batch as ``loss`` and does nothing else.

        Args:
            epoch: The loss may join in a later one; before that, the sampler does not learn.
        """
        return ""

    def begin(self) -> None:
        """Prepare a run that starts from its first step; one that goes on has :meth:`load_state` called instead."""

    def save_state(self, folder: Path) -> None:
        """Write what a resumed run needs beside the model (momentum encoder, queues, verdicts) into a checkpoint.

        All ranks call it together, with a folder that all of them see; what is the same on all ranks is written by the
        first alone (``Ranks.current().rank == 0``).
        """

    def load_state(self, folder: Path) -> None:
        """Read what :meth:`save_state` wrote; all ranks call it, after the weights of the model were loaded."""

    def epoch_figures(self, epoch: int) -> dict[str, float]:
        """Return the figures of the epoch that has just ended, for the log, and start counting anew.

        Figures that every rank has its share of are to be reduced here: all ranks call this together.
        """
        return {}

    def remark(self, step: int, total_steps: int, values: Mapping[str, Any]) -> str | None:
        """A line for people on the figures of a logged step, or None. All ranks call it with the same figures.

        A run that goes on calls it with those that its log has, before its first step.

        Args:
            step: Finished steps.
            total_steps: Of the whole run.
            values: The mean of the losses over the ranks, as the log has them: None for what is not finite.
        """
        return None

    def joins(self) -> dict[int, str]:
        """Epochs from which on something joins that makes steps slower, and its name; the time left is told by it."""
        return {}

    def close(self) -> None:
        """Let go of open files; called once, when the loop ends for whatever reason."""
