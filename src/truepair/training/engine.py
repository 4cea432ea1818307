"""Devices, precision and ranks of a run, through accelerate."""

from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from transformers import PreTrainedModel

from truepair.errors import ConfigError
from truepair.training.loop_config import LoopConfig
from truepair.training.records import require_trackers

# Ranks wait this long for one that evaluates or writes a checkpoint.
PATIENCE = timedelta(hours=2)


def build_accelerator(config: LoopConfig, run_folder: Path) -> Accelerator:
    """Set up devices, precision, ranks and trackers.

    Raises:
        ConfigError: a tracker is not installed, or the precision does not go with the device.
    """
    require_trackers(config.trackers)
    # A head gets no gradient in the epochs before its loss starts.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        return Accelerator(
            mixed_precision=config.precision,
            cpu=config.cpu,
            log_with=config.trackers or None,
            project_dir=run_folder,
            kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise ConfigError(f"loop.precision is '{config.precision}': {' '.join(str(error).split())[:200]}") from error


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let a model recompute its activations in the backward pass.

    Raises:
        ConfigError: the model cannot.
    """
    try:
        if hasattr(model, "activation_checkpointing_enable"):  # the newer name
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"loop.gradient_checkpointing: {error}; leave it out") from error
