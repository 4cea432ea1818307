"""The batches of an epoch, read by worker processes, some at a time for one optimizer step."""

import time
from collections.abc import Callable, Generator, Sized
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from truepair.data.loading import DATA_TIMEOUT, SMALL, BatchReader, Poll, require_room, tensors_in
from truepair.data.pairs import SubstitutionLog
from truepair.engine.loop.step import TrainingBatch
from truepair.sampling.batches import Visit, Visits


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
        timeout: seconds that a batch is waited for; 0 for ever.
        poll: called while a batch is waited for.
    """

    def __init__(
        self,
        dataset: VisitedDataset,
        collate: Callable[[Any], TrainingBatch],
        *,
        workers: int,
        pin_memory: bool,
        substitutions: SubstitutionLog,
        timeout: float = DATA_TIMEOUT,
        poll: Poll | None = None,
    ) -> None:
        self._visits = _Visits()
        self._dataset = dataset
        self._collate = collate
        self._poll = poll
        self._reader: BatchReader[TrainingBatch] = BatchReader(
            dataset,
            _SmallAsArrays(collate) if workers else collate,
            workers=workers,
            timeout=timeout,
            batch_sampler=self._visits,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )
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
            DataError: too many samples are unreadable; or a loading process was killed, hangs, or has no room.
        """
        asked = time.perf_counter()
        for start in range(0, count, size):
            wanted = min(size, count - start)
            group = self._take(wanted)
            if not group:
                self._visits.ahead = ahead if self._reader.started else self._with_room(ahead, count)
                self._reader.start()
                group = self._take(wanted)
            for batch in group:
                self._substitutions.update(batch)
            yield group, time.perf_counter() - asked
            asked = time.perf_counter()

    def close(self) -> None:
        """End the worker processes."""
        self._reader.close()

    def _take(self, count: int) -> list[TrainingBatch]:
        """The next batches; none if there are none, or none were given yet."""
        group = list[TrainingBatch]()
        while self._reader.started and len(group) < count and (batch := self._reader.next(self._poll)) is not None:
            group.append(_with_tensors(batch) if self._reader.workers else batch)
        return group

    def _with_room(self, ahead: Visits, count: int) -> Visits:
        """The same batches, for which shared memory has room, as one sample tells.

        Raises:
            DataError: it has not.
        """
        first = next(ahead, None)
        if first is None:
            return ahead
        if self._reader.workers:
            sample = self._collate([self._dataset[first[0]]])
            large = [size for size in (len(first) * tensor.nbytes for tensor in tensors_in(sample)) if size > SMALL]
            require_room(sum(large), count, self._reader.workers)
        return chain([first], ahead)


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
            self.collate(samples), Tensor, lambda value: value.numpy() if value.nbytes <= SMALL else value
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
