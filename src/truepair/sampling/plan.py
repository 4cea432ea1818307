"""What a grouped sampler collects over an epoch, and the plan of the next."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.errors import CheckpointError, ConfigError
from truepair.files import writing_file

Indices = NDArray[np.int64]
"""Dataset indices, or positions in a list of samples."""


def random_batches(count: int, batch_size: int, *, seed: int, epoch: int, drop_last: bool = True) -> list[Indices]:
    """Cut a fresh permutation of the data set into batches.

    Args:
        count: number of samples in the data set.
        batch_size: samples of one global batch (over all ranks).
        seed: seed of the run.
        epoch: epoch, counted from 0.
        drop_last: leave out the short last batch. Which samples it holds changes from epoch to epoch.

    Returns:
        Arrays of dataset indices, each ``[batch_size]`` (the last may be shorter when ``drop_last`` is off).

    Raises:
        ValueError: ``drop_last`` leaves no batch at all.
    """
    if count < batch_size and drop_last:
        raise ValueError(f"{count} samples do not fill one batch of {batch_size}; lower the batch size")
    order = np.random.default_rng([seed, epoch]).permutation(count)  # int64 [count]
    end = count - count % batch_size if drop_last else count
    return [order[start : start + batch_size] for start in range(0, end, batch_size)]


def rank_share(batch: Indices, rank: int, ranks: int) -> Indices:
    """One rank's consecutive share [B / ranks] of a global batch [B]; all ranks get the same number of samples.

    Raises:
        ValueError: the batch cannot be shared equally.
    """
    if len(batch) % ranks:
        raise ValueError(f"a batch of {len(batch)} cannot be shared equally by {ranks} ranks")
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]


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
    """A number that tells plans, int64 [N] each, apart."""
    return zlib.crc32(np.ascontiguousarray(order).data)


class PlanFolder:
    """Plans on disk, one ``plan-00003.npy`` an epoch: int64 [N], whole or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, epoch: int) -> Path:
        """Where the plan of an epoch lies."""
        return self.folder / f"plan-{epoch:05d}.npy"

    def write(self, epoch: int, order: Indices) -> None:
        """Write a plan [N] aside, sync it to the disk, and rename it.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        with writing_file(self.path(epoch), error=CheckpointError) as file:
            np.save(file, order, allow_pickle=False)

    def read(self, epoch: int) -> Indices:
        """Read the plan of an epoch, int64 [N].

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


class CollectedFeatures:
    """Dataset indices (int64) and features of samples, in one block of memory on the device of the features.

    Args:
        capacity: Most samples it holds at a time.
        storage: Type the features are kept in.
    """

    def __init__(self, capacity: int, storage: torch.dtype) -> None:
        self.capacity = capacity
        self.storage = storage
        self._size = 0
        self._index = torch.empty(0, dtype=torch.int64)  # [capacity] once in use
        self._image = self._text = torch.empty(0, 0, dtype=storage)  # [capacity, D] once in use

    def __len__(self) -> int:
        return self._size

    @property
    def index(self) -> Tensor:
        """Dataset indices, int64 [n]."""
        return self._index[: self._size]

    @property
    def image(self) -> Tensor:
        """Image features [n, D], or [n, Q, D] of a model with queries."""
        return self._image[: self._size]

    @property
    def text(self) -> Tensor:
        """Text features [n, D]."""
        return self._text[: self._size]

    def add(self, index: Tensor, image: Tensor, text: Tensor) -> None:
        """Append samples: int64 [b], and features [b, D] of the storage type; those of images may be [b, Q, D]."""
        if not len(self._index) or self._index.device != index.device:
            self._reserve(image.shape[1:], text.shape[1:], index.device)
        end = self._size + len(index)
        self._index[self._size : end] = index
        self._image[self._size : end] = image.detach()
        self._text[self._size : end] = text.detach()
        self._size = end

    def keep(self, positions: Tensor) -> None:
        """Forget all samples but those at some positions, int64 [k]; they stay in that order."""
        kept = [part[positions] for part in (self.index, self.image, self.text)]
        self._size = 0
        if len(positions):
            self.add(*kept)

    def _reserve(self, image: torch.Size, text: torch.Size, device: torch.device) -> None:
        """Take the memory on a device, and move what is held there."""
        held = (self.index, self.image, self.text)
        self._index = torch.empty(self.capacity, dtype=torch.int64, device=device)
        self._image = torch.empty(self.capacity, *image, dtype=self.storage, device=device)
        self._text = torch.empty(self.capacity, *text, dtype=self.storage, device=device)
        for block, part in zip((self._index, self._image, self._text), held, strict=True):
            if self._size:
                block[: self._size] = part

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of what it holds: index [n], image and text [n, D]."""
        return {name: getattr(self, name).cpu().clone() for name in ("index", "image", "text")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Hold what another queue held: index [n], image and text [n, D].

        The memory moves to the device of the next features that are added.
        """
        self._size, self._index = 0, torch.empty(0, dtype=torch.int64)
        if len(state["index"]):
            self.add(state["index"], state["image"], state["text"])
