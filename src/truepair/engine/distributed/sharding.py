"""Weights, gradients and the optimizer's averages spread over the processes of a run (FSDP2), and put together again.

What is written to disk is always whole, so that a run may go on with its weights spread or not, over any number of
processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError

_KINDS = (GradientCheckpointingLayer,)


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Its transformer layers, which hold most of its weights and are called one after the other."""
    return [module for module in model.modules() if isinstance(module, _KINDS) or _attends(module)]


def _attends(module: nn.Module) -> bool:
    """Whether a module is a layer around torch's own attention, as those of open_clip are."""
    return any(isinstance(child, nn.MultiheadAttention) for child in module.children())


def shard(step: TrainingStep, plugin: FullyShardedDataParallelPlugin) -> None:
    """Spread the trained weights of a step over all processes, in place.

    Layers of the modules that ``step.gathered_by_layer`` names are gathered one by one when they are called, all else
    once a step: how often a layer is called may depend on the lengths of texts, and so differ between processes, which
    must exchange alike. What the step holds beside the model, such as a momentum copy, is spread like the model, so
    that it can follow without exchange. Frozen weights, which such a copy shares, and single numbers stay whole, of
    whatever shape. After the backward pass, :func:`settle_gradients`.

    Args:
        step: On its device, the same on all processes.
        plugin: Says whether layers give up foreign weights after the forward pass.

    Raises:
        ConfigError: torch is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(f"loop.shard needs a newer torch than {torch.__version__}; install 2.14 or later")
    mesh = init_device_mesh(next(step.parameters()).device.type, (dist.get_world_size(),))
    stays = {weight for weight in step.model.parameters() if not weight.requires_grad}
    stays |= {weight for weight in step.parameters() if weight.numel() == 1}
    for layer in [layer for module in step.gathered_by_layer() for layer in repeated_layers(module)]:
        if not all(weight in stays for weight in layer.parameters()):
            fully_shard(
                layer, mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward), ignored_params=stays
            )
    outer = fully_shard(step, mesh=mesh, ignored_params=stays)
    outer.set_reduce_scatter_unused_params(True)  # a batch may leave out a head on one process alone


def adapter_pairs(weights: Mapping[str, nn.Parameter]) -> list[tuple[int, int]]:
    """The places of both matrices of each adapter (LoRA) among trained weights, by their names.

    While the second is zero, as it is at first, the gradient of the first is: it has been used all the same.
    """
    places = {name: place for place, name in enumerate(weights)}
    firsts = [name for name in places if ".lora_A." in name]
    return [(places[name], places[name.replace(".lora_A.", ".lora_B.")]) for name in firsts]


def settle_gradients(parameters: list[nn.Parameter], adapters: Sequence[tuple[int, int]] = ()) -> None:
    """After the backward pass of a step whose weights are spread: what torch leaves to be done with the gradients.

    Those of whole weights become the mean over all processes. Those of weights that no process has used, a head whose
    loss has not started, are zero instead of none, and would let weight decay work.

    Args:
        parameters: All that are trained.
        adapters: From `adapter_pairs`: the first matrix is used where the second is.
    """
    used = torch.stack([_has_gradient(weight) for weight in parameters]).float()
    dist.all_reduce(used)
    for first, second in adapters:
        used[first] += used[second]
    for weight, count in zip(parameters, used.tolist(), strict=True):
        if not count:
            weight.grad = None
        elif not isinstance(weight, DTensor):
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            dist.all_reduce(weight.grad)
            weight.grad /= dist.get_world_size()


def give_up_foreign(step: nn.Module) -> None:
    """Let go of foreign weights that a forward pass without a backward pass has left, whether a step is spread or not.

    torch gathers nothing that is there already: after an update such a step would go on with the weights of before.
    """
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _has_gradient(weight: nn.Parameter) -> Tensor:
    """Whether this process holds a gradient other than zero."""
    gradient = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
    return torch.zeros((), dtype=torch.bool, device=weight.device) if gradient is None else gradient.any()


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of a module are spread."""
    return any(isinstance(weight, DTensor) for weight in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor of any shape with all its parts; all processes call this together [...]."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(values: Any, *, keep: bool = True) -> Any:
    """Dicts and lists whose spread tensors are made whole, on the CPU; all processes call this together.

    Args:
        values: The same structure on all processes.
        keep: Whether this process wants them; otherwise they are None here.
    """
    made: dict[int, Tensor | None] = {}  # by id, so that tied weights stay tied

    def gather(value: Any) -> Any:
        """The same for a part of the values."""
        if isinstance(value, Mapping):
            return {name: gather(part) for name, part in value.items()}
        if isinstance(value, list):
            return [gather(part) for part in value]
        if not isinstance(value, DTensor):
            return value
        if id(value) not in made:
            full = whole(value.detach())
            made[id(value)] = full.cpu() if keep else None
        return made[id(value)]

    return gather(values)


def spread_like(target: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole tensor, if the target is spread and of its shape; otherwise the tensor itself."""
    if not isinstance(target, DTensor) or value.shape != target.shape:
        return value
    own = value.to(target.device_mesh.device_type)
    return distribute_tensor(own, target.device_mesh, target.placements, src_data_rank=None)


@torch.no_grad()
def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module that may be spread.

    Raises:
        RuntimeError: They do not fit.
    """
    own = module.state_dict()
    spread = {name: spread_like(own[name], value) if name in own else value for name, value in state.items()}
    module.load_state_dict(spread)


def whole_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or where it is spread a whole copy on each process; all call this together."""
    if not is_sharded(model):
        return model
    state = gathered(model.state_dict(keep_vars=True))
    copy = type(model)(model.config) if isinstance(model, PreTrainedModel) else model.blank()
    copy.load_state_dict(state)
    return copy.to(model.device).eval()
