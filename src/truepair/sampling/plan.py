"""The plan of an epoch: one order of all samples, where its batches begin, and the file that keeps it."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from truepair.errors import CheckpointError, ConfigError

Indices = NDArray[np.int64]


def step_bounds(count: int, global_batch: int, ranks: int, *, drop_last: bool) -> Indices:
    """Cut an epoch into steps, so that every rank has a share of each.

    Steps are full. If the samples do not come out even and none may be dropped, the last two steps share what is left,
    which avoids a step of a few samples (a batch of one has no negatives).

    Args:
        count: Samples of the data set.
        global_batch: Samples of one step over all ranks.
        ranks: Number of ranks.
        drop_last: Leave out the samples that do not fill a step.

    Returns:
        Where each step begins, and where the last one ends, int64 [T + 1]. Samples beyond the end are left out.

    Raises:
        ConfigError: There are too few samples for one step.
    """
    full, rest = divmod(count, global_batch)
    sizes = [global_batch] * full
    if rest and not drop_last:
        left = rest + (sizes.pop() if full else 0)
        halves = [left - left // 2, left // 2]
        sizes += halves if full and halves[1] >= ranks else [left]
    if not sizes:
        raise ConfigError(f"{count} samples do not fill one batch of {global_batch}; lower the batch size")
    if min(sizes) < ranks:
        raise ConfigError(f"{count} samples are too few for {ranks} ranks; use fewer ranks")
    return np.cumsum([0, *sizes], dtype=np.int64)


def lay_out(
    walks: Sequence[Indices], others: Indices, left_out: Indices, group_size: int, rng: np.random.Generator
) -> Indices:
    """Cut walks into groups and shuffle the groups (not the samples inside them).

    Args:
        walks: Dataset indices of each search space in walking order.
        others: Samples without features, in any order; they fill groups of their own.
        left_out: Samples that the epoch leaves out.
        group_size: Samples of a group.
        rng: Shuffles.

    Returns:
        All samples, int64 [N]: full groups in random order, the samples that fill no group, those left out.
    """
    ends = [len(walk) - len(walk) % group_size for walk in walks]
    whole = [walk[:end] for walk, end in zip(walks, ends, strict=True)]
    tails = [walk[end:] for walk, end in zip(walks, ends, strict=True)]  # neighbours of a walk stay together
    pool = np.concatenate([*tails, rng.permutation(others)]).astype(np.int64)
    end = len(pool) - len(pool) % group_size
    groups = np.concatenate([*whole, pool[:end]]).reshape(-1, group_size)
    return np.concatenate([rng.permutation(groups).reshape(-1), pool[end:], left_out]).astype(np.int64)


def checksum(order: Indices) -> int:
    """A number that tells plans apart."""
    return zlib.crc32(np.ascontiguousarray(order).data)


class PlanFolder:
    """Plans on disk, one ``plan-00003.npy`` an epoch: int64 [N], whole or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, epoch: int) -> Path:
        """Return where the plan of an epoch lies."""
        return self.folder / f"plan-{epoch:05d}.npy"

    def write(self, epoch: int, order: Indices) -> None:
        """Write a plan aside, sync it to the disk, and rename it.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        final = self.path(epoch)
        aside = final.with_name(f".{final.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                np.save(file, order, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(final)
            directory = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise CheckpointError(f"cannot write {final} ({error.strerror}); free the disk or change it") from error

    def read(self, epoch: int) -> Indices:
        """Read the plan of an epoch.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        try:
            order = np.load(self.path(epoch), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"cannot read the plan {self.path(epoch)} ({error}); give the folder of the run, seen by every rank"
            ) from error
        if order.dtype != np.int64 or order.ndim != 1:
            raise CheckpointError(f"{self.path(epoch)} is not a plan; delete it and resume from an older checkpoint")
        return np.asarray(order, np.int64)
