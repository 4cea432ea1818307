"""What all ranks must agree on at each step, in one small message."""

from collections.abc import Mapping

import torch
import torch.distributed as dist


def sum_over_ranks(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Add up the numbers of all ranks, which all call this together with the same names.

    Args:
        values: this rank's numbers.
        device: where the process group wants tensors.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return dict(values)
    sent = torch.tensor(list(values.values()), dtype=sum_dtype(device), device=device)
    dist.all_reduce(sent)
    return dict(zip(values, sent.tolist(), strict=True))


def sum_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in: float64, which Apple's MPS does not know."""
    return torch.float32 if device.type == "mps" else torch.float64
