"""What ranks exchange in a step: tensors with their gradients, and sums."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from truepair.sampling.ranks import Ranks


def gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of every rank, in the order of the ranks; each gets the gradient of its part from all.

    Args:
        tensor: Of the same shape on all ranks [b, ...].

    Returns:
        [ranks * b, ...]; the tensor itself on one rank.
    """
    if Ranks.current().count == 1:
        return tensor
    return cast(Tensor, _Gather.apply(tensor))


def gather_padded(tensor: Tensor) -> Tensor:
    """The same of tensors [b, L, ...] whose lengths L differ; filled with zeros to the longest."""
    if Ranks.current().count == 1:
        return tensor
    longest = torch.tensor(tensor.shape[1], device=tensor.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = int(longest) - tensor.shape[1]
    return gather(F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing)))


def sum_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Add up the numbers of all ranks, which all call this together with the same names.

    Args:
        values: this rank's numbers.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return dict(values)
    device = torch.device("cpu") if dist.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    sent = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(sent)
    return dict(zip(values, sent.tolist(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        """All parts, in the order of the ranks."""
        context.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(Ranks.current().count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """This rank's part of the gradients that all ranks have of it."""
        (gradient,) = gradients
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may use it elsewhere too
        dist.all_reduce(gradient)
        start = Ranks.current().rank * context.rows
        return gradient[start : start + context.rows]
