"""Devices, precision and ranks of a run, through accelerate."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch.distributed.rendezvous import rendezvous

from truepair.errors import ConfigError
from truepair.training.compiling import compile_layers
from truepair.training.loop_config import LoopConfig
from truepair.training.records import require_trackers
from truepair.training.training_step import TrainingStep

# Ranks wait this long for one that evaluates or writes a checkpoint.
PATIENCE = timedelta(hours=2)


def build_accelerator(config: LoopConfig, run_folder: Path) -> Accelerator:
    """Set up devices, precision, ranks and trackers.

    Raises:
        ConfigError: a tracker is not installed, the precision does not go with the device, or accelerate is configured
            to shard the weights, which checkpoints and averages here do not know.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        raise ConfigError(
            "a run holds all weights on each process, and accelerate is configured for FSDP; launch without it, "
            "and save memory with loop.micro_batch and loop.gradient_checkpointing"
        )
    require_trackers(config.trackers)
    _meet_after_restart(config)
    # A head gets no gradient in the epochs before its loss starts.
    # Buffers (momentum queue, running statistics of frozen encoders) are the same on all ranks already.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
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


def _meet_after_restart(config: LoopConfig) -> None:
    """Give each attempt of torchrun keys of its own in the store where ranks meet.

    torchrun may keep one store for all attempts (``--standalone`` does), and ranks that were started again would find
    the addresses of those that died.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not attempt or not shared or dist.is_initialized():
        return
    store, rank, ranks = next(rendezvous("env://", timeout=PATIENCE))
    backend = "nccl" if torch.cuda.is_available() and not config.cpu else "gloo"
    own = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=ranks, timeout=PATIENCE)


def prepare_model(step: TrainingStep, config: LoopConfig) -> None:
    """Let the model of a step recompute its activations in the backward pass and be compiled, if the run asks for it.

    Raises:
        ConfigError: the model cannot be, or the step takes batches as a whole and is asked for parts.
    """
    if step.micro_batch != config.micro_batch:
        raise ConfigError(
            "loop.micro_batch is for pre-training, which contrasts the pairs of a batch; "
            "here a smaller loop.batch_size with loop.accumulate is the same"
        )
    model = step.model
    if config.compile:
        compile_layers(step.model)
    if not config.gradient_checkpointing:
        return
    try:
        if hasattr(model, "activation_checkpointing_enable"):  # the newer name
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"loop.gradient_checkpointing: {error}; leave it out") from error
