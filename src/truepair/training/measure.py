"""Speed, waiting and memory of a run, which differ from machine to machine and so have a log of their own."""

import resource
import sys

import torch


class Stopwatch:
    """Times the steps of a run.

    Attributes:
        seconds: time of all steps, waiting for data included; evaluation and checkpoints left out.
        waited: time of all steps spent waiting for data.
        pairs: pairs trained on, over all ranks.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waited = 0.0
        self.pairs = 0
        self._since = (0.0, 0.0, 0)

    def add(self, seconds: float, waited: float, pairs: int) -> None:
        """Count one step."""
        self.seconds += seconds
        self.waited += waited
        self.pairs += pairs

    @property
    def pairs_per_second(self) -> float:
        """Speed over the whole run of this process."""
        return self.pairs / self.seconds if self.seconds else 0.0

    def lap(self) -> dict[str, float]:
        """Figures since the last call: speed, and the share of time spent waiting for data; peak memory so far."""
        seconds, waited, pairs = (
            now - then for now, then in zip((self.seconds, self.waited, self.pairs), self._since, strict=True)
        )
        self._since = (self.seconds, self.waited, self.pairs)
        return {
            "pairs_per_second": pairs / seconds if seconds else 0.0,
            "data_wait": waited / seconds if seconds else 0.0,
            **peak_memory(),
        }


class RunningMean:
    """A mean that can be saved and gone on with."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self.total = total
        self.count = count

    def add(self, value: float) -> None:
        """Take in a value."""
        self.total += value
        self.count += 1

    def take(self) -> float:
        """Return the mean, and start anew."""
        mean = self.total / self.count
        self.total, self.count = 0.0, 0
        return mean

    def state(self) -> tuple[float, int]:
        """The arguments of one that goes on from here."""
        return self.total, self.count


def peak_memory() -> dict[str, float]:
    """Most memory this process has held, in MiB: resident, and on its GPU where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    figures = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available():
        figures["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures
