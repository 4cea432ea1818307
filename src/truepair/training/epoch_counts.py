"""What a step counts over an epoch, for the log."""

import torch
from torch import Tensor

from truepair.training.agreement import sum_dtype


class EpochCounts:
    """Sums by name. Those on a device are brought to the host only when they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, counts: dict[str, float] | dict[str, Tensor]) -> None:
        """Add to the sums; a name that is new starts at 0."""
        for name, count in counts.items():
            dtype = sum_dtype(count.device) if isinstance(count, Tensor) else torch.float64
            value = torch.as_tensor(count, dtype=dtype)
            self._sums[name] = self._sums[name].to(value) + value if name in self._sums else value

    def read(self) -> dict[str, float]:
        """The sums so far."""
        return {name: float(value) for name, value in self._sums.items()}

    def take(self) -> dict[str, float]:
        """The sums so far; counting starts anew."""
        sums, self._sums = self.read(), {}
        return sums

    def load(self, sums: dict[str, float]) -> None:
        """Go on from sums that :meth:`read` gave."""
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
