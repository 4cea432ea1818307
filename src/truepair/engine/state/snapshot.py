"""What a checkpoint holds, beside the model: all that a run needs to go on as if it had never stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from truepair.engine.distributed.sharding import gathered, is_sharded, load_whole
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.step import TrainingStep
from truepair.engine.state.checkpoint import load_optimizer, save_optimizer
from truepair.errors import CheckpointError
from truepair.sampling.batches import EpochBatches

SAMPLER_FILE = "sampler.safetensors"

AVERAGE_FILE = "average.safetensors"

STEP_FOLDER = "step"


class Saved(Protocol):
    """What is written beside a model so that it can be used again, such as ``Preprocessing``."""

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        ...


class Snapshot:
    """Writes and reads the tensors of a run.

    Args:
        step: the losses, not wrapped for ranks, with the model.
        preprocessing: written beside the model.
        optimizer: its running averages.
        batches: the sampler.
        average: the moving average of the weights, if there is one.
        scaler: the loss scaler of fp16, if there is one.
        main: whether this rank writes what all ranks have alike.
    """

    def __init__(
        self,
        step: TrainingStep,
        preprocessing: Saved,
        optimizer: torch.optim.Optimizer,
        batches: EpochBatches,
        average: WeightAverage | None,
        scaler: torch.amp.GradScaler | None,
        *,
        main: bool,
    ) -> None:
        self.step = step
        self.preprocessing = preprocessing
        self.optimizer = optimizer
        self.batches = batches
        self.average = average
        self.scaler = scaler
        self.main = main

    def write(self, folder: Path) -> None:
        """Write into a checkpoint folder; all ranks call this, and those that have parts of the weights send them."""
        model = self.step.model
        weights = gathered(model.state_dict(keep_vars=True), keep=self.main) if is_sharded(model) else None
        averages = gathered(self.optimizer.state_dict(), keep=self.main)
        average = None if self.average is None else gathered(self.average.tensors(), keep=self.main)
        if self.main:
            self.write_model(model, folder, weights)
            save_optimizer(averages, folder, self.scaler)
            sampler = self.batches.state_dict()
            if sampler:
                save_file({name: value.contiguous() for name, value in sampler.items()}, folder / SAMPLER_FILE)
            if average is not None:
                save_file(average, folder / AVERAGE_FILE)
        (folder / STEP_FOLDER).mkdir(exist_ok=True)
        self.step.save_state(folder / STEP_FOLDER)

    def read(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Read a checkpoint folder; all ranks call this.

        Args:
            folder: the checkpoint.
            state: its ``state.json``.

        Raises:
            CheckpointError: it belongs to a run with other settings, or was not written by truepair.
        """
        load_weights(self.step.model, folder)
        load_optimizer(self.optimizer, folder, self.scaler)
        try:
            if (folder / SAMPLER_FILE).exists():
                self.batches.load_state_dict(load_file(folder / SAMPLER_FILE))
            if self.average is not None:
                self.average.load(load_file(folder / AVERAGE_FILE), state["average_updates"])
            self.step.load_state(folder / STEP_FOLDER)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} does not belong to a run with these settings ({error}); give another run folder"
            ) from error

    def write_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model, with these weights instead of its own if there are any, and what it needs to be used."""
        model.save_pretrained(folder, state_dict=weights)
        self.preprocessing.save(folder)


def load_average(model: PreTrainedModel, folder: Path) -> None:
    """Put the moving average that a checkpoint holds, if it holds one, into a whole model of the same kind.

    Raises:
        CheckpointError: it does not fit.
    """
    file = folder / AVERAGE_FILE
    if not file.exists():
        return
    try:
        load_whole(model, model.state_dict() | load_file(file))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} is the average of another model ({reason}); give another run folder") from error


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Read the weights that ``save_pretrained`` wrote into a model of the same kind; safetensors alone.

    Raises:
        CheckpointError: they do not fit.
    """
    try:
        saved = type(model).from_pretrained(folder, use_safetensors=True, local_files_only=True)
        load_whole(model, saved.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} holds another model ({reason}); give another run folder") from error
