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
    dtype = torch.float32 if device.type == "mps" else torch.float64
    sent = torch.tensor(list(values.values()), dtype=dtype, device=device)
    dist.all_reduce(sent)
    return dict(zip(values, sent.tolist(), strict=True))
