"""What host and device exchange without either waiting for the other.

Pairs of a batch are decided on the host, where its ids are: a few small numbers at a time, of which each result says
how large the next is. A GPU would have to be waited for at each of them; what it needs is sent when all is decided.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

_Result = TypeVar("_Result")


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; one of the host is copied without a wait, in its turn among what the device has to do.

    From page-locked memory, that is: from any other, the driver may wait for the device to be done first.
    """
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=device.type != "mps")


def uncompiled(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """The function, kept out of the graphs of ``torch.compile``: it has to know the data, or would make them too large.

    So there is one break at it instead of several within. Where nothing is compiled it is the function itself.
    """
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function
