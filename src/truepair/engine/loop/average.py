"""An exponential moving average of the weights (EMA)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from truepair.engine.distributed.sharding import spread_like


class WeightAverage:
    """A moving average of a model's trainable weights; frozen weights and buffers are the model's own.

    ``torch.optim.swa_utils.AveragedModel`` copies the whole model, frozen encoders with it, which sharded modules
    (FSDP2) refuse; and its first update forgets the weights that the run began with.

    After t updates the decay is the smaller of ``decay`` and (1 + t) / (10 + t), so that the first weights are soon
    forgotten.

    Args:
        model: the model that is trained.
        decay: share of the average that an update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._average = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight.float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        try:
            self.put()
            yield
        finally:
            self._put(trained)

    def put(self) -> None:
        """Give the model the averaged weights for good."""
        self._put(self._average)

    def tensors(self) -> dict[str, Tensor]:
        """The average, spread like the weights, for a checkpoint."""
        return {name: value.contiguous() for name, value in self._average.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take in whole tensors of a checkpoint; the count of updates is part of the run's state."""
        self.updates = updates
        for name, value in tensors.items():
            own = self._average[name]
            own.copy_(spread_like(own, value))

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
