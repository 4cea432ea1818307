"""The batches of an epoch, read by worker processes, some at a time for one optimizer step."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sized
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from truepair.data.pairs import SubstitutionLog
from truepair.engine.loop.signals import ignore_stop_signals
from truepair.engine.loop.step import TrainingBatch
from truepair.errors import DataError
from truepair.sampling.batches import Visit, Visits

_SMALL = 64 * 1024  # bytes


class VisitedDataset(Sized, Protocol):
    """A data set whose samples are asked for by ``Visit``, such as ``PairDataset``."""

    def __getitem__(self, visit: Any, /) -> Any:
        """One sample, a pure function of the visit."""
        ...


class GroupReader:
    """Reads batches in groups, with the same worker processes from epoch to epoch; to be closed after use.

    To start a worker, and to let it read the texts of a table, takes as long as some steps on cached states.

    Args:
        dataset: where samples come from.
        collate: makes a batch of samples.
        workers: data loading processes.
        pin_memory: deliver batches in page-locked memory.
        substitutions: takes note of unreadable samples.
    """

    def __init__(
        self,
        dataset: VisitedDataset,
        collate: Callable[[Any], TrainingBatch],
        *,
        workers: int,
        pin_memory: bool,
        substitutions: SubstitutionLog,
    ) -> None:
        self._visits = _Visits()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=self._visits,
            collate_fn=_SmallAsArrays(collate) if workers else collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=ignore_stop_signals,
        )
        self._batches: Iterator[TrainingBatch] | None = None
        self._substitutions = substitutions

    def groups(self, ahead: Visits, count: int, size: int) -> Generator[tuple[list[TrainingBatch], float], None, None]:
        """Yield the next batches in groups, each group with the seconds spent waiting for it.

        Batches ahead may be of several epochs. Then workers read on while the last groups of an epoch are trained on,
        and while the model is evaluated; and the next call, for the next epoch, goes on with them.

        Args:
            ahead: which samples meet, from the next batch on; not looked at while batches of an earlier call are left.
            count: batches to yield: those that are left of the epoch.
            size: batches of a group; the last may have fewer.

        Raises:
            DataError: too many samples are unreadable, or a loading process was killed.
        """
        asked = time.perf_counter()
        for start in range(0, count, size):
            wanted = min(size, count - start)
            group = self._take(wanted)
            if not group:
                self._visits.ahead = ahead
                self._batches = iter(self._loader)
                group = self._take(wanted)
            for batch in group:
                self._substitutions.update(batch)
            yield group, time.perf_counter() - asked
            asked = time.perf_counter()

    def close(self) -> None:
        """End the worker processes; one that waits for its program would keep that from ending."""
        end_processes = getattr(self._batches, "_shutdown_workers", None)
        if end_processes is not None:
            end_processes()
        self._batches = None

    def _take(self, count: int) -> list[TrainingBatch]:
        """The next batches; none if there are none, or none were given yet."""
        if self._batches is None:
            return []
        try:
            group = list(itertools.islice(self._batches, count))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a data loading process was killed, most often for want of memory; lower loop.workers or "
                "loop.batch_size"
            ) from error
        return [_with_tensors(batch) for batch in group] if self._loader.num_workers else group


class _SmallAsArrays:
    """A batch with arrays in place of its small tensors.

    A tensor comes from a worker as shared memory, for which the run asks the worker through a socket of its own: half a
    millisecond each, a tenth of a step on cached states.
    """

    def __init__(self, collate: Callable[[Any], TrainingBatch]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> TrainingBatch:
        """Make a batch of samples."""
        return _with_changed(
            self.collate(samples), Tensor, lambda value: value.numpy() if value.nbytes <= _SMALL else value
        )


def _with_tensors(batch: TrainingBatch) -> TrainingBatch:
    """The batch with its tensors back."""
    return _with_changed(batch, np.ndarray, torch.from_numpy)


def _with_changed(batch: TrainingBatch, kind: type, change: Callable[[Any], Any]) -> TrainingBatch:
    """The batch with its values of some kind changed."""
    values = {name: change(value) for name, value in vars(batch).items() if isinstance(value, kind)}
    return replace(batch, **values)  # type: ignore[type-var]


class _Visits(Sampler[list[Visit]]):
    """Whichever batches are to be read."""

    ahead: Visits

    def __iter__(self) -> Visits:
        return self.ahead
