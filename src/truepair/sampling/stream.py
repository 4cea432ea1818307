"""Grouped batches of a stream: the same walk inside a bounded window of samples that can be read only once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from truepair.errors import ConfigError
from truepair.sampling.grouped import GroupedConfig, order_spaces
from truepair.sampling.hardness import Hardness, HardnessSchedule
from truepair.sampling.known import KnownMatches, separate
from truepair.sampling.plan import CollectedFeatures, Indices, lay_out, step_bounds
from truepair.sampling.spaces import cut_spaces

Sample = TypeVar("Sample")

_STREAM = 5  # together with seed, epoch and window: the key of the random numbers


class GroupedStream(IterableDataset[list[Sample]]):
    """Yields grouped batches of an iterable.

    A window of ``config.queue_size`` samples is read, shuffled, cut into search spaces, walked, cut into batches, and
    the batches come in random order. What fills no batch stays for the next window; only the last batch of the stream
    may be smaller. Held in memory: ``queue_size`` samples as they come, their features, and during a walk
    ``32 * search_space ** 2`` bytes of similarities (on the CPU).

    It differs from :class:`GroupedBatchSampler` in three ways: the features must be known when a sample is read (stored
    beside it, or computed by ``features`` in a forward pass more); neighbours are found only within a window, not in
    the whole epoch; and each rank groups its own part of the stream, so the batches depend on the number of ranks.

    Args:
        samples: The stream of this rank (and of this loader worker, if there are several).
        features: Returns L2-normalised image and text features [n, D] of at most ``batch_size`` samples.
        batch_size: Samples of a batch.
        config: Sizes; ``queue_size`` is the window.
        seed: Seed of the run, 0 or more.
        epoch: Pass over the data, which the random numbers depend on.
        drop_last: Leave out a last batch that is not full.
        keys: Names what a sample must not share with another of its batch (image id, caption key); always as many
            integers, negative ones for nothing.
        hardness: The dial, if not that of ``config``.

    Raises:
        ConfigError: A size or the seed is out of range, or the hardness is to be learned.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        features: Callable[[Sequence[Sample]], tuple[Tensor, Tensor]],
        batch_size: int,
        *,
        config: GroupedConfig | None = None,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = True,
        keys: Callable[[Sample], Sequence[int]] | None = None,
        hardness: Hardness | None = None,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise ConfigError(f"batch_size is {batch_size} and seed {seed}; give at least 1 and 0")
        self.samples = samples
        self.features = features
        self.batch_size = batch_size
        self.config = config or GroupedConfig()
        if batch_size > self.config.queue_size:
            raise ConfigError(f"a window of {self.config.queue_size} holds no batch of {batch_size}; raise queue_size")
        if hardness is None and self.config.hardness.learned is not None:
            raise ConfigError("a stream says nothing back of what its batches gained; drop sampler.hardness.learned")
        self.seed = seed
        self.epoch = epoch
        self.drop_last = drop_last
        self.keys = keys
        self.hardness = hardness or HardnessSchedule(self.config.hardness)

    def __iter__(self) -> Iterator[list[Sample]]:
        """Read the stream from its beginning."""
        stream = iter(self.samples)
        window: list[Sample] = []
        queue = CollectedFeatures(self.config.queue_size, getattr(torch, self.config.storage))  # of the same samples
        number = 0
        while new := list(islice(stream, self.config.queue_size - len(window))):
            for first in range(0, len(new), self.batch_size):
                image, text = self.features(new[first : first + self.batch_size])
                queue.add(torch.arange(len(image), device=image.device), image, text)
            window += new
            order = self._order(window, queue, number)
            end = len(order) - len(order) % self.batch_size
            for first in range(0, end, self.batch_size):
                yield [window[place] for place in order[first : first + self.batch_size]]
            window = [window[place] for place in order[end:]]
            queue.keep(torch.from_numpy(order[end:]).to(queue.index.device))
            number += 1
        if window and not self.drop_last:
            yield window

    def _order(self, window: list[Sample], queue: CollectedFeatures, number: int) -> Indices:
        """The places of a window [n], batch after batch; the samples that fill no batch come last."""
        rng = np.random.default_rng([self.seed, self.epoch, _STREAM, number])
        spaces = cut_spaces(rng.permutation(len(window)), self.config.search_space)
        known = None
        if self.keys is not None:
            known = KnownMatches(np.array([self.keys(sample) for sample in window], np.int64))
        walks = order_spaces(
            self.config,
            spaces,
            rng,
            queue.image,
            queue.text,
            samples=np.arange(len(window)),
            group_size=self.batch_size,
            hardness=self.hardness,
            epoch=self.epoch,
            known=known,
        )
        nothing = np.empty(0, np.int64)
        order = lay_out(walks, nothing, nothing, self.batch_size, rng)
        if known is not None and len(order) >= self.batch_size:
            bounds = step_bounds(len(order), self.batch_size, 1, drop_last=True)
            order, _ = separate(order, bounds, known, rng)
        return order
