"""Cheap functions whose results are made again in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result", bound=Tensor | tuple[Tensor, ...])


def remade(function: Callable[..., Result], *inputs: Tensor, random: bool = False) -> Result:
    """Call a function of tensors, and keep no more than its inputs for the backward pass.

    There the function is called again, but ends as soon as all is there that a gradient needs. So a product of matrices
    at its end is not repeated, and what it reads is not kept.

    Args:
        function: What it draws, it draws from the default generator.
        inputs: What is kept.
        random: Whether it draws random numbers.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Result = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random)
    return result
