"""Speed, waiting, memory, profiles and counts of a run."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from truepair.errors import CheckpointError
from truepair.files import write_text, writing_file


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
    """A mean that can be saved and resumed."""

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


@contextmanager
def profiled(folder: Path, step: int) -> Iterator[None]:
    """Profile what happens inside: ``profile-STEP.json`` for chrome://tracing or Perfetto, and a table.

    Args:
        folder: where the files go.
        step: the step, counted from 1.

    Raises:
        CheckpointError: the disk refuses.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    with (
        writing_file(folder / f"profile-{step}.json", error=CheckpointError) as file,
        TemporaryDirectory(dir=folder) as place,  # the profiler opens the file that it writes
    ):
        profiler.export_chrome_trace(f"{place}/trace.json")
        file.write(Path(place, "trace.json").read_bytes())
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
    write_text(folder / f"profile-{step}.txt", table, error=CheckpointError)


class EpochCounts:
    """Sums by name. Those on a device are brought to the host only when they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, counts: dict[str, float] | dict[str, Tensor]) -> None:
        """Add numbers or scalar tensors to the sums; a name that is new starts at 0."""
        for name, count in counts.items():
            on_mps = isinstance(count, Tensor) and count.device.type == "mps"  # which knows no float64
            value = torch.as_tensor(count, dtype=torch.float32 if on_mps else torch.float64)
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
