"""What a checkpoint holds, beside the model: all that a run needs to go on as if it had never stopped."""

import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from truepair.engine.distributed.sharding import gathered, is_sharded, load_whole, spread_like
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.step import TrainingStep
from truepair.engine.state.checkpoint import ADVICE
from truepair.errors import CheckpointError
from truepair.files import writing_folder
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
        """Write into a checkpoint folder; all ranks call this, and those that have parts of the weights send them.

        Raises:
            OSError: the disk is full, say.
        """
        model = self.step.model
        weights = gathered(model.state_dict(keep_vars=True), keep=self.main) if is_sharded(model) else None
        averages = gathered(self.optimizer.state_dict(), keep=self.main)
        average = None if self.average is None else gathered(self.average.tensors(), keep=self.main)
        (folder / STEP_FOLDER).mkdir(exist_ok=True)
        with _refusals_as_os_errors():
            if self.main:
                self.write_model(model, folder, weights)
                save_optimizer(averages, folder, self.scaler)
                sampler = self.batches.state_dict()
                if sampler:
                    save_file({name: value.contiguous() for name, value in sampler.items()}, folder / SAMPLER_FILE)
                if average is not None:
                    save_file(average, folder / AVERAGE_FILE)
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
        """Write the model, with these weights instead of its own if there are any, and what it needs to be used.

        Raises:
            OSError: the disk is full, say.
        """
        with _refusals_as_os_errors():
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


def save_optimizer(optimizer: dict[str, Any], folder: Path, scaler: torch.amp.GradScaler | None = None) -> None:
    """Write the state of the optimizer, of whole tensors, and of the loss scaler of fp16, into a checkpoint folder.

    Raises:
        OSError: the disk is full, say.
    """
    state = {"optimizer": optimizer, "scaler": None if scaler is None else scaler.state_dict()}
    with (folder / "optimizer.pt").open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of an OSError
            raise OSError(f"optimizer.pt: {error.__cause__ or error.__context__ or error}") from error


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path, scaler: torch.amp.GradScaler | None = None) -> None:
    """Read the state back, but not learning rates and decay: a run may go on with others, after it has diverged, say.

    Only tensors and plain values are ever unpickled.

    Raises:
        CheckpointError: the state belongs to other parameters, or holds anything but tensors and plain values.
    """
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
        optimizer.load_state_dict(_spread(state["optimizer"], optimizer))
    except ValueError as error:
        raise CheckpointError(
            f"{folder} was written by a run with other trainable parameters; give another run folder"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder / 'optimizer.pt'} was not written by truepair ({reason}); remove it") from error
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])


@contextmanager
def _refusals_as_os_errors() -> Iterator[None]:
    """Safetensors has an error of its own for a disk that is full."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _spread(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole state, of which this process keeps its part where the parameters are spread."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        number: {name: spread_like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    return state | {"state": own}


def save_anew(folder: Path, save: Callable[[Path], object]) -> None:
    """Save a model in place of the one in a folder, whose other files stay.

    Args:
        folder: of a model.
        save: writes the files of the new one into a folder.

    Raises:
        CheckpointError: the disk refuses; then the former model stays.
    """
    with writing_folder(folder, error=CheckpointError, advice=ADVICE) as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        save(aside)
