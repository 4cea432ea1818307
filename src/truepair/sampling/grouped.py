"""The grouped batch sampler (GRIT-VLP): epochs of similar pairs from the features of the epoch before."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from truepair.errors import CheckpointError, ConfigError
from truepair.sampling.communities import CommunitiesConfig, part_spaces
from truepair.sampling.falcon import LearnedHardness
from truepair.sampling.grit import walk_spaces
from truepair.sampling.hardness import Hardness, HardnessConfig, HardnessSchedule
from truepair.sampling.known import FoundMatches, KnownMatches, separate
from truepair.sampling.plan import (
    CollectedFeatures,
    Indices,
    PlanFolder,
    checksum,
    lay_out,
    random_batches,
    step_bounds,
)
from truepair.sampling.ranks import Ranks
from truepair.sampling.spaces import cut_spaces

STORAGE = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class GroupedConfig:
    """How grouped batches are made; the defaults are those of GRIT-VLP and MAFA.

    Attributes:
        queue_size: Samples (of all ranks together) whose features are collected before they are grouped.
        search_space: Samples among which a walk looks for the next one (M).
        group_size: Samples of one slice of a walk; left out, those of one step over all ranks.
        storage: Type the collected features are kept in: float32, float16 or bfloat16.
        hardness: Which candidate a walk takes; the most similar by default.
        communities: How search spaces are cut into communities, in place of walks; absent for walks.
    """

    queue_size: int = 48_000
    search_space: int = 1_920
    group_size: int | None = None
    storage: str = "float32"
    hardness: HardnessConfig = field(default_factory=HardnessConfig)
    communities: CommunitiesConfig | None = None

    def __post_init__(self) -> None:
        if self.storage not in STORAGE:
            raise ConfigError(f"sampler.storage is '{self.storage}'; give {', '.join(STORAGE[:-1])} or {STORAGE[-1]}")
        for name in ("queue_size", "search_space", "group_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"sampler.{name} is {value}; give 1 or more")
        if self.queue_size < self.search_space:
            raise ConfigError(
                f"sampler.queue_size {self.queue_size} is smaller than sampler.search_space {self.search_space}; "
                "give at least as much"
            )
        if self.communities is not None:
            self.communities.require_neighbours(self.search_space)
            if self.hardness.learned is not None or (self.hardness.quantile, self.hardness.final_quantile) != (1, None):
                raise ConfigError(
                    "sampler.hardness.quantile, final_quantile and learned are for the walk of sampler.kind grit; drop "
                    "them (sampler.communities.skip says how similar the nearest neighbours may be)"
                )

    def scaled(self, count: int, global_batch: int) -> "GroupedConfig":
        """Shrink search space and queue to a small data set; a large one leaves them as they are.

        A search space that is a large part of the data set fills batches with false negatives (FALCON,
        arXiv 2505.11192), and one of a single group cannot choose. So a space is at most an eighth of the samples, but
        at least four groups, in whole groups where possible; the queue is at most the data set.

        Args:
            count: Samples of the data set.
            global_batch: Samples of one step over all ranks.
        """
        group = self.group_size or global_batch
        space = min(self.search_space, max(count // 8, 4 * group), count)
        if space < self.search_space and space > group:
            space -= space % group
        return dataclasses.replace(self, search_space=space, queue_size=max(space, min(self.queue_size, count)))


def order_spaces(
    config: GroupedConfig,
    spaces: list[Indices],
    rng: np.random.Generator,
    image: Tensor,
    text: Tensor,
    *,
    samples: Indices,
    group_size: int,
    hardness: Hardness,
    epoch: int,
    known: KnownMatches | None = None,
    ranks: Ranks | None = None,
) -> list[Indices]:
    """Bring the search spaces of a window into an order of which slices become groups: a walk, or communities.

    Args:
        config: Which of both.
        spaces: Positions in the window, int64 [M] each.
        rng: Chooses where walks start, or the order of communities; the same on all ranks.
        image: Normalised image features of the window [n, D].
        text: Normalised text features of the window [n, D].
        samples: What ``known`` and ``hardness`` call the samples of the window, int64 [n].
        group_size: Samples of a group.
        hardness: The dial of walks.
        epoch: Epoch that is planned.
        known: Matches to keep out of a group.
        ranks: Ranks that hold the same window and share the work.

    Returns:
        The positions of each space in that order, int64 [M] each; the same on every rank.
    """
    numbers = [int(rng.integers(len(space))) for space in spaces]
    if config.communities is not None:
        return part_spaces(
            spaces,
            numbers,
            image,
            text,
            config.communities,
            samples=samples,
            group_size=group_size,
            known=known,
            ranks=ranks,
        )
    return walk_spaces(
        spaces,
        numbers,
        image,
        text,
        samples=samples,
        group_size=group_size,
        hardness=hardness,
        epoch=epoch,
        known=known,
        ranks=ranks,
    )


# What a random generator is for; together with seed and epoch it makes the key of its numbers.
_WINDOW, _LAYOUT, _LEFT_OUT, _SEPARATE = 1, 2, 3, 4

_SETTINGS = ("count", "global_batch", "drop_last", "seed", "queue_size", "search_space", "group_size")


class GroupedBatchSampler(Sampler[list[int]]):
    """Yields this rank's batches: random in epoch 0, grouped by GRIT in every later epoch.

    Give it to a ``DataLoader`` as ``batch_sampler``, and call :meth:`collect` after each training step with the
    features of the step. The last ``collect`` of an epoch plans the next one. Every sample comes exactly once an epoch
    (or is left out, at random, by ``drop_last``), on any number of ranks; the order of the global batches is the same
    for any number of ranks with the same global batch, and does not depend on loader workers. After
    :meth:`load_state_dict` the iterator goes on with the step that follows the last one collected.

    Samples that were never collected (skipped steps, those left out) take random places in the next epoch.

    Example:
        >>> sampler = GroupedBatchSampler(len(dataset), 128)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, batch_sampler=sampler)  # doctest: +SKIP
        >>> for _ in range(epochs):  # doctest: +SKIP
        ...     for batch in loader:
        ...         image, text = train_step(batch)  # normalised features [B, D]
        ...         sampler.collect(batch["index"], image, text)

    Args:
        count: Samples of the data set.
        batch_size: Samples of a batch on one rank.
        config: Sizes; see :meth:`GroupedConfig.scaled` for small data.
        seed: Seed of the run, 0 or more.
        ranks: This process among all; by default those of torch.distributed.
        drop_last: Leave out the samples that do not fill a step, others each epoch. Otherwise the last two steps share
            what is left, and are smaller.
        known: Matches to keep out of one step, in every epoch; may be replaced at any time, alike on all ranks.
        hardness: The dial, if not that of ``config``.
        plan_folder: Where rank 0 writes the plan of each grouped epoch. Without it, the plan is part of the state.
        all_ranks: Yield the batches of all ranks in turn, for a loader that shares them out itself
            (``accelerate.Accelerator.prepare``).

    Raises:
        ConfigError: There are too few samples for one step, or the seed or batch size is out of range.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        config: GroupedConfig | None = None,
        seed: int = 0,
        ranks: Ranks | None = None,
        drop_last: bool = True,
        known: KnownMatches | None = None,
        hardness: Hardness | None = None,
        plan_folder: Path | None = None,
        all_ranks: bool = False,
    ) -> None:
        if seed < 0 or batch_size < 1:
            raise ConfigError(f"the sampler's seed is {seed} and its batch_size {batch_size}; give at least 0 and 1")
        self.config = config or GroupedConfig()
        self.ranks = ranks or Ranks.current()
        self.count = count
        self.global_batch = batch_size * self.ranks.count
        self.group_size = self.config.group_size or self.global_batch
        if self.config.communities is not None:
            self.config.communities.members(self.group_size)  # refuses in time what does not fit
        self.seed = seed
        self.drop_last = drop_last
        self.known = known
        self._found = FoundMatches()
        self._heeded: tuple[KnownMatches | None, KnownMatches | None] = (None, None)  # known, and found besides
        self.hardness = hardness or _hardness(self.config.hardness, count, seed)
        self.all_ranks = all_ranks
        self._bounds = step_bounds(count, self.global_batch, self.ranks.count, drop_last=drop_last)
        self._plans = PlanFolder(plan_folder) if plan_folder else None
        capacity = min(self.config.queue_size, count) + 2 * self.global_batch
        self._queue = CollectedFeatures(capacity, getattr(torch, self.config.storage))
        first = random_batches(count, self.global_batch, seed=seed, epoch=0, drop_last=False)
        self.clashes = 0
        self._yielded = False
        self._windows = 0  # of this epoch, grouped so far
        self._walks: list[Indices] = []  # their search spaces in walking order, for the next epoch
        self._seen = np.zeros(count, np.bool_)  # [count]: in one of the walks
        self._begin(0, self._separated(np.concatenate(first), epoch=0))

    def __len__(self) -> int:
        """Batches of an epoch, as yielded to this process."""
        return (len(self._bounds) - 1) * (self.ranks.count if self.all_ranks else 1)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch that are not done yet.

        Raises:
            ConfigError: The epoch has been yielded to its end, but not all of its steps have been collected.
        """
        if self._yielded:
            raise ConfigError(
                f"epoch {self.epoch} has been read to its end, but only {self.step} of its {self.steps} steps were "
                "collected; call collect() or skip() after each step, or end_epoch()"
            )
        order = self.order
        for step in range(self.step, self.steps):
            batch = order[self._bounds[step] : self._bounds[step + 1]]
            shares = np.array_split(batch, self.ranks.count)
            for share in shares if self.all_ranks else [shares[self.ranks.rank]]:
                yield share.tolist()
        if self.order is order:  # else the epoch was ended early
            self._yielded = True

    def step_samples(self, step: int) -> Indices:
        """The dataset indices of one step of this epoch, over all ranks, int64 [global batch]."""
        return self.order[self._bounds[step] : self._bounds[step + 1]]

    @property
    def steps(self) -> int:
        """Steps of an epoch; the same on every rank."""
        return len(self._bounds) - 1

    def collect(self, indices: Tensor, image_features: Tensor, text_features: Tensor) -> None:
        """Keep the features of the step just trained; all ranks call it together, once a step, in order.

        The last step of an epoch plans the next epoch.

        Args:
            indices: Dataset indices of this rank's batch, int64 [B].
            image_features: Their L2-normalised image features [B, D], or [B, Q, D] of a model with queries.
            text_features: Their L2-normalised text features [B, D].

        Raises:
            ConfigError: The step does not have the size that this epoch's plan gives it.
        """
        sizes = [len(share) for share in np.array_split(self.step_samples(self.step), self.ranks.count)]
        expected = sizes[self.ranks.rank]
        if not len(indices) == len(image_features) == len(text_features) == expected:
            raise ConfigError(
                f"collect got {len(indices)} samples at step {self.step} of epoch {self.epoch}, which has {expected}; "
                "call it once for each batch, in order"
            )
        image, text = (part.detach().to(self._queue.storage) for part in (image_features, text_features))
        index = indices.to(device=image.device, dtype=torch.int64)
        self._queue.add(*self.ranks.gather(sizes, index, image, text))
        if len(self._queue) >= self.config.queue_size:
            self._group()
        self.skip()

    def skip(self) -> None:
        """Count a step as done without features; its samples get random places in the next epoch."""
        self.step += 1
        if self.step == self.steps:
            self.end_epoch()

    def end_epoch(self) -> None:
        """Plan the next epoch from what has been collected, and begin it; called by the last :meth:`collect`."""
        if self._found.heed():
            self._heeded = (None, None)
        self._group(final=True)
        if isinstance(self.hardness, LearnedHardness):
            self.hardness.begin_epoch()
        epoch = self.epoch + 1
        order = np.empty(self.count, np.int64)
        if self.ranks.rank == 0:
            missing = ~self._seen
            missing[self._left_out] = False
            others = np.flatnonzero(missing)
            order = lay_out(self._walks, others, self._left_out, self.group_size, self._rng(epoch, _LAYOUT))
            order = self._separated(order, epoch)
        self._begin(epoch, self.ranks.broadcast(torch.from_numpy(order)).numpy())
        if self._plans and self.ranks.rank == 0:
            self._plans.write(epoch, self.order)

    def learn(self, reward: float) -> None:
        """Tell a hardness that is learned what the step just trained has gained; before its :meth:`collect`.

        All ranks call it together, with the same number: the fall of a loss. Any other hardness takes no note.
        """
        if isinstance(self.hardness, LearnedHardness):
            self.hardness.learn(self.step_samples(self.step), reward)

    def suspect(self, pairs: Tensor) -> None:
        """Keep pairs that probably match out of one step, from the next epoch on; before the step's :meth:`collect`.

        Args:
            pairs: Dataset indices, int64 [P, 2]; all ranks give the same. They are kept for the rest of the run.
        """
        self._found.add(pairs.cpu().numpy())

    @property
    def apart(self) -> KnownMatches | None:
        """What is kept out of one step in the plans that are made now: ``known``, and what :meth:`suspect` told."""
        if not len(self._found.heeded):
            return self.known
        if self._heeded[1] is None or self._heeded[0] is not self.known:
            self._heeded = self.known, (self.known or KnownMatches()).adding(self._found.heeded)
        return self._heeded[1]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, as some loops do; the next one ends the present one early.

        Raises:
            ConfigError: It is neither the present epoch nor the next.
        """
        if epoch == self.epoch + 1:
            self.end_epoch()
        elif epoch != self.epoch:
            raise ConfigError(f"the sampler is in epoch {self.epoch}, not {epoch}; load the state of that epoch")

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that :meth:`load_state_dict` needs, as CPU tensors; the same on every rank.

        The collected features [n, D] are part of it: at most ``queue_size`` and two steps of samples. So is the plan of
        the epoch [count], unless a plan folder holds it, and what a learned hardness has drawn for two epochs.
        """
        state = {
            "progress": torch.tensor([self.epoch, self.step, self._windows]),
            "settings": torch.tensor(self._settings()),
            "walk_lengths": torch.tensor([len(walk) for walk in self._walks], dtype=torch.int64),
            "walks": torch.from_numpy(np.concatenate([np.empty(0, np.int64), *self._walks])),
            **{f"queue_{name}": value for name, value in self._queue.state_dict().items()},
            **{f"found_{name}": value for name, value in self._found.state_dict().items()},
        }
        if isinstance(self.hardness, LearnedHardness):
            state |= {f"hardness.{name}": value for name, value in self.hardness.state_dict().items()}
        if self._plans and self.epoch:
            return state | {"plan_checksum": torch.tensor([checksum(self.order)])}
        return state | {"plan": torch.from_numpy(self.order.copy())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from where another sampler was, on any number of ranks with the same global batch.

        Raises:
            CheckpointError: The state belongs to other settings, or its plan cannot be read.
        """
        theirs = state["settings"].tolist()
        for name, old, new in zip(_SETTINGS, theirs, self._settings(), strict=True):
            if old != new:
                raise CheckpointError(f"the sampler's state has {name} {old}, this run has {new}; give the old value")
        if isinstance(self.hardness, LearnedHardness):
            prefix = "hardness."
            learned = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self.hardness.load_state_dict(learned)
        if "found_heeded" in state:  # else it is of an older version
            self._found.load_state_dict({name: state[f"found_{name}"] for name in ("heeded", "fresh")})
            self._heeded = (None, None)
        epoch, step, windows = state["progress"].tolist()
        self._begin(epoch, self._saved_plan(epoch, state))
        self.step, self._windows = step, windows
        lengths = state["walk_lengths"].tolist()
        self._walks = [part.numpy().copy() for part in state["walks"].split(lengths)]
        self._seen[state["walks"].numpy()] = True
        self._queue.load_state_dict({name: state[f"queue_{name}"] for name in ("index", "image", "text")})

    def _begin(self, epoch: int, order: Indices) -> None:
        self.epoch = epoch
        self.step = 0
        self.order = order  # [count]: all samples; those from the last bound on are left out
        self._yielded = False
        self._windows = 0
        self._walks = []
        self._seen = np.zeros(self.count, np.bool_)
        visited = order[: self._bounds[-1]]
        # The next epoch leaves out samples that this one visits, so that none is left out twice in a row.
        self._left_out = self._rng(epoch, _LEFT_OUT).choice(visited, self.count - len(visited), replace=False)

    def _group(self, *, final: bool = False) -> None:
        """Walk the whole search spaces that the queue holds; at the end of an epoch, what is left over as well."""
        index = self._queue.index.cpu().numpy()  # [n]
        rng = self._rng(self.epoch, _WINDOW, self._windows)
        self._windows += 1
        shuffled = rng.permutation(self._wanted(index))
        size = self.config.search_space
        end = len(shuffled) if final else len(shuffled) - len(shuffled) % size
        spaces = cut_spaces(shuffled[:end], size)
        walks = order_spaces(
            self.config,
            spaces,
            rng,
            self._queue.image,
            self._queue.text,
            samples=index,
            group_size=self.group_size,
            hardness=self.hardness,
            epoch=self.epoch + 1,
            known=self.apart,
            ranks=self.ranks,
        )
        if isinstance(self.hardness, LearnedHardness):
            count = self.ranks.count
            self.hardness.share(self.ranks, [sum(map(len, spaces[rank::count])) for rank in range(count)])
        self._walks += [index[walk] for walk in walks]
        self._seen[index[shuffled[:end]]] = True
        self._queue.keep(torch.from_numpy(shuffled[end:]).to(self._queue.index.device))

    def _wanted(self, index: Indices) -> Indices:
        """Positions in the queue of samples to walk: no sample twice, none that the next epoch leaves out."""
        if len(index) and not 0 <= index.min() <= index.max() < self.count:
            raise ConfigError(f"collect got dataset index {index.max()} of {self.count}; give indices of the data set")
        _, first = np.unique(index, return_index=True)
        fresh = first[~self._seen[index[first]]]
        return fresh[~np.isin(index[fresh], self._left_out)]

    def _separated(self, order: Indices, epoch: int) -> Indices:
        """The order with known matches in different steps; :attr:`clashes` counts those that could not be parted."""
        self.clashes = 0
        apart = self.apart
        if apart is not None:
            order, self.clashes = separate(order, self._bounds, apart, self._rng(epoch, _SEPARATE))
        return order

    def _saved_plan(self, epoch: int, state: dict[str, Tensor]) -> Indices:
        if "plan" in state:
            return np.asarray(state["plan"].numpy().copy(), np.int64)
        if self._plans is None:
            raise CheckpointError("the sampler's state keeps its plan in a file; give the plan folder of that run")
        order = self._plans.read(epoch)
        if checksum(order) != int(state["plan_checksum"]):
            raise CheckpointError(f"{self._plans.path(epoch)} is the plan of another run; give the folder of this one")
        return order

    def _settings(self) -> list[int]:
        sizes = (self.config.queue_size, self.config.search_space, self.group_size)
        return [self.count, self.global_batch, int(self.drop_last), self.seed, *sizes]

    def _rng(self, epoch: int, purpose: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, purpose, number])


def _hardness(config: HardnessConfig, count: int, seed: int) -> Hardness:
    """The dial that a config states, for some samples."""
    if config.learned is not None:
        return LearnedHardness(config.learned, count, seed)
    return HardnessSchedule(config)
