"""The profile of one step, as a trace that a browser shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def profiled(folder: Path, step: int) -> Iterator[None]:
    """Profile what happens inside: ``profile-STEP.json`` for chrome://tracing or Perfetto, and a table.

    Args:
        folder: where the files go.
        step: the step, counted from 1.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    profiler.export_chrome_trace(str(folder / f"profile-{step}.json"))
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
    (folder / f"profile-{step}.txt").write_text(table, encoding="utf-8")
