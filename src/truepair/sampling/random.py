"""Random batches as a pure function of (seed, epoch): the same order for any number of ranks, and after a resume."""

import numpy as np
from numpy.typing import NDArray


def random_batches(
    count: int, batch_size: int, *, seed: int, epoch: int, drop_last: bool = True
) -> list[NDArray[np.int64]]:
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
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)  # [count]
    end = count - count % batch_size if drop_last else count
    return [order[start : start + batch_size] for start in range(0, end, batch_size)]


def rank_share(batch: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """Return one rank's consecutive share of a global batch; every rank gets the same number of samples.

    Raises:
        ValueError: the batch cannot be shared equally.
    """
    if len(batch) % ranks:
        raise ValueError(f"a batch of {len(batch)} cannot be shared equally by {ranks} ranks")
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]
