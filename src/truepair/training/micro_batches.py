"""Two passes over a batch that is too large for its activations: all decisions first, then gradients part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


@dataclass(frozen=True)
class MicroBatches:
    """How a batch is taken apart for the encoders and the fusion encoder.

    As in GradCache (Gao et al. 2021): the first pass computes features, losses and all decisions on the whole batch,
    and keeps states, but no activations. In the backward pass one part after the other is computed again, with the same
    random draws, and given its gradient. So gradients are those of the whole batch, and memory for activations is that
    of a part.

    Attributes:
        size: Pairs of a part; 0: the batch is one part, and nothing is computed twice.
    """

    size: int = 0

    def slices(self, count: int) -> list[slice]:
        """The parts of some rows, in order."""
        size = self.size or max(count, 1)
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def call(self, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """Call a pure function of a part; its activations are forgotten until the backward pass.

        Args:
            function: Draws random numbers from the default generator alone.
            inputs: Tensors, of which at least one is on the device where numbers are drawn.
        """
        if not self.size or not torch.is_grad_enabled():
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts; of a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
