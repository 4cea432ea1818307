"""The batches of an epoch, read by worker processes, some at a time for one optimizer step."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sized
from typing import Any, Protocol

from torch.utils.data import DataLoader

from truepair.data.substitution import SubstitutionLog
from truepair.errors import DataError
from truepair.training.batches import VisitSampler
from truepair.training.signals import ignore_stop_signals
from truepair.training.training_step import TrainingBatch


class VisitedDataset(Sized, Protocol):
    """A data set whose samples are asked for by ``Visit``, such as ``PairDataset``."""

    def __getitem__(self, visit: Any, /) -> Any:
        """One sample, a pure function of the visit."""
        ...


def read_groups(
    dataset: VisitedDataset,
    collate: Callable[[Any], TrainingBatch],
    visits: VisitSampler,
    size: int,
    *,
    workers: int,
    pin_memory: bool,
    substitutions: SubstitutionLog,
) -> Generator[tuple[list[TrainingBatch], float], None, None]:
    """Yield the batches in groups, each group with the seconds spent waiting for it; to be closed after use.

    Args:
        dataset: where samples come from.
        collate: makes a batch of samples.
        visits: which samples meet.
        size: batches of a group; the last may have fewer.
        workers: data loading processes.
        pin_memory: deliver batches in page-locked memory.
        substitutions: takes note of unreadable samples.

    Raises:
        DataError: too many samples are unreadable, or a loading process was killed.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=visits,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_stop_signals,
    )
    batches = iter(loader)
    try:
        for _ in range(0, len(visits), size):
            asked = time.perf_counter()
            group = _take(batches, size)
            for batch in group:
                substitutions.update(batch)
            yield group, time.perf_counter() - asked
    finally:
        # The traceback of an error keeps the iterator alive, and the program would wait for its processes for ever.
        end_processes = getattr(batches, "_shutdown_workers", None)
        if end_processes is not None:
            end_processes()


def _take(batches: Iterator[TrainingBatch], size: int) -> list[TrainingBatch]:
    try:
        return list(itertools.islice(batches, size))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a data loading process was killed, most often for want of memory; lower loop.workers or loop.batch_size"
        ) from error
