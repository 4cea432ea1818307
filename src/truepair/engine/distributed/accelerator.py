"""Devices, precision and ranks of a run, through accelerate; torch.compile for its layers."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy

from truepair.engine.distributed.processes import join_processes
from truepair.engine.distributed.sharding import repeated_layers, shard
from truepair.engine.logs.log import require_trackers
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.optimizer import OptimizerConfig, build_optimizer
from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError

# Layers of one kind share what is compiled. Kinds, training and evaluation, and lengths of texts are its variants.
_MOST_VARIANTS = 64

_ASKED = "ACCELERATE_USE_FSDP"  # set by ``accelerate launch --use_fsdp``


def build_accelerator(config: LoopConfig, run_folder: Path) -> Accelerator:
    """Set up devices, precision, ranks and trackers.

    Raises:
        ConfigError: a tracker is not installed, the precision does not go with the device, or accelerate is configured
            to spread the weights in a way that does not exist here, see :func:`sharding_plugin`.
    """
    sharding_plugin(config)
    require_trackers(config.trackers)
    join_processes(cpu=config.cpu)
    # A head gets no gradient in the epochs before its loss starts.
    # Buffers (momentum queue, running statistics of frozen encoders) are the same on all ranks already.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    try:
        with _wrapping_nothing():
            return Accelerator(
                mixed_precision=config.precision,
                cpu=config.cpu,
                log_with=config.trackers or None,
                project_dir=run_folder,
                kwargs_handlers=[unused],
            )
    except ValueError as error:
        raise ConfigError(f"loop.precision is '{config.precision}': {' '.join(str(error).split())[:200]}") from error


def sharding_plugin(config: LoopConfig) -> FullyShardedDataParallelPlugin | None:
    """How the weights are spread over the processes, by ``loop.shard`` or accelerate's configuration; None if not.

    Raises:
        ConfigError: it asks for what does not exist here.
    """
    asked = os.environ.get(_ASKED, "").lower() in ("1", "true")
    if not asked and not config.shard:
        return None
    plugin = FullyShardedDataParallelPlugin(fsdp_version=None if asked else 2)
    for instead, refused in {
        "set --fsdp_version 2": plugin.fsdp_version != 2,
        "leave out --fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "set --fsdp_cpu_ram_efficient_loading false": plugin.cpu_ram_efficient_loading,
        "set loop.gradient_checkpointing instead of --fsdp_activation_checkpointing": plugin.activation_checkpointing,
        "of loop.precision, give bf16 or no": config.precision == "fp16",
    }.items():
        if refused:
            raise ConfigError(f"weights cannot be spread over processes (FSDP) like this; {instead}")
    return plugin


def prepare_step(
    step: TrainingStep, config: LoopConfig, optimizer: OptimizerConfig, accelerator: Accelerator
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Put a step on its device, and have its gradients exchanged between processes: with whole weights, or spread.

    Returns:
        The step as it is called, and its optimizer.

    Raises:
        ConfigError: the model cannot be prepared as the run asks; see :func:`prepare_model`.
    """
    prepare_model(step, config)
    plugin = sharding_plugin(config)
    if plugin is None or accelerator.num_processes == 1:
        return accelerator.prepare(step, build_optimizer(step, optimizer))  # type: ignore[no-any-return]
    shard(step.to(accelerator.device), plugin)
    return step, accelerator.prepare(build_optimizer(step, optimizer))


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


def compile_layers(model: nn.Module, *, backend: str = "inductor") -> int:
    """Compile the repeated layers of a model in place; names of weights stay.

    Layer by layer, and not the whole model: a layer is compiled once, however often it is repeated, and the choice of
    rows and lengths between the layers stays in Python. It happens when a layer is first called.

    Args:
        model: Holds transformer layers.
        backend: Of torch.compile.

    Returns:
        How many layers there are.

    Raises:
        ConfigError: There is no C++ compiler, or nothing to compile.
    """
    if backend == "inductor" and not has_compiler():
        raise ConfigError("loop.compile needs a C++ compiler; install g++ or clang++, or leave loop.compile out")
    layers = repeated_layers(model)
    if not layers:
        raise ConfigError(f"loop.compile: {type(model).__name__} has no transformer layers; leave it out")
    from torch._dynamo import config  # takes a second to import

    config.recompile_limit = max(config.recompile_limit, _MOST_VARIANTS)
    for layer in layers:
        layer.compile(backend=backend)
    return len(layers)


def has_compiler() -> bool:
    """Whether there is a C++ compiler: $CXX, g++ or clang++."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


@contextlib.contextmanager
def _wrapping_nothing() -> Iterator[None]:
    """Keep accelerate from spreading weights: it cannot on a CPU, and would spread what has to stay whole."""
    asked = os.environ.pop(_ASKED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_ASKED] = asked
