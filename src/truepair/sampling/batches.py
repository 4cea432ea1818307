"""Who meets in a batch: random batches, or GRIT's hard ones, as one rank's visits of an epoch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.relations.similarity import similarities
from truepair.sampling.communities import CommunitiesConfig
from truepair.sampling.falcon import LearnedHardness
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import Indices, random_batches, rank_share
from truepair.sampling.ranks import Ranks


class Visit(NamedTuple):
    """One visit of a sample. Samplers yield visits, so that the epoch reaches worker processes."""

    epoch: int
    index: int  # type: ignore[assignment]  # a row number, not the method of tuples


Visits = Iterator[list[Visit]]
"""Batches, as a data loader asks for their samples."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Who meets in a batch.

    Attributes:
        kind: "random"; or hard batches from the features of the epoch before: "grit", a walk from sample to sample
            (GRIT-VLP, MAFA), or "communities", samples that are neighbours among themselves (as in B3).
        queue_size: samples (of all ranks together) whose features are collected before they are grouped.
        search_space: samples among which a walk looks for the next one, or communities are found; scaled down to small
            data, which the run says.
        group_size: samples of one slice of a walk; those of one batch over all ranks when absent.
        storage: type the collected features are kept in: float32, float16 or bfloat16.
        hardness: which candidate a walk takes; the most similar by default.
        communities: for kind "communities", who is whose neighbour, and how large they are; absent for the defaults.
        separate_known: keep samples of one image or one caption out of each other's batch.
    """

    kind: str = "random"
    queue_size: int = 48_000
    search_space: int = 1_920
    group_size: int | None = None
    storage: str = "float32"
    hardness: HardnessConfig = field(default_factory=HardnessConfig)
    communities: CommunitiesConfig | None = None
    separate_known: bool = True

    def __post_init__(self) -> None:
        if self.kind not in SAMPLERS:
            raise ConfigError(f"sampler.kind is '{self.kind}'; give {' or '.join(SAMPLERS)}")
        if self.kind != "grit" and self.hardness.learned is not None:
            raise ConfigError("sampler.hardness.learned is for grouped batches; set sampler.kind to grit")
        if self.kind != "communities" and self.communities is not None:
            raise ConfigError("sampler.communities is for sampler.kind communities; set that, or drop it")
        if self.kind == "random" and self.hardness.below is not None:
            raise ConfigError("sampler.hardness.below is for grouped batches; set sampler.kind to grit or communities")
        self.grouped()

    def grouped(self) -> GroupedConfig:
        """The sizes of grouped sampling.

        Raises:
            ConfigError: they contradict each other.
        """
        return GroupedConfig(
            queue_size=self.queue_size,
            search_space=self.search_space,
            group_size=self.group_size,
            storage=self.storage,
            hardness=self.hardness,
            communities=(self.communities or CommunitiesConfig()) if self.kind == "communities" else None,
        )


@dataclass(frozen=True, kw_only=True)
class SampledRows:
    """What a sampler is told of a run.

    Attributes:
        count: training pairs.
        batch_size: pairs of one batch on one rank.
        seed: seed of the run.
        ranks: this process among all.
        keys: pairs with the same key in a column match each other, int64 [count, K]; see ``KnownMatches``.
        apart: further pairs that do not belong in one batch, int64 [P, 2].
        labels: what each pair shows, int64 [count], negative where that is not known; for the log alone.
        plan_folder: where plans of grouped epochs go.
    """

    count: int
    batch_size: int
    seed: int
    ranks: Ranks
    keys: Indices | None = None
    apart: Indices | None = None
    labels: Indices | None = None
    plan_folder: Path | None = None


def build_batches(
    config: SamplerConfig,
    count: int,
    batch_size: int,
    *,
    seed: int,
    ranks: Ranks,
    keys: Indices | None = None,
    apart: Indices | None = None,
    labels: Indices | None = None,
    plan_folder: Path | None = None,
) -> "EpochBatches":
    """Build the batches of a run.

    Args:
        config: which kind.
        count: training pairs.
        batch_size: pairs of one batch on one rank.
        seed: seed of the run.
        ranks: this process among all.
        keys: pairs with the same key in a column match each other, int64 [count, K]; see ``KnownMatches``.
        apart: further pairs that do not belong in one batch, int64 [P, 2].
        labels: what each pair shows, int64 [count], negative where that is not known; for the log.
        plan_folder: where plans of grouped epochs go.

    Raises:
        ConfigError: the pairs do not fill one global batch.
    """
    rows = SampledRows(
        count=count,
        batch_size=batch_size,
        seed=seed,
        ranks=ranks,
        keys=keys,
        apart=apart,
        labels=labels,
        plan_folder=plan_folder,
    )
    return SAMPLERS[config.kind](config, rows)


_NAMES = {"grit": "GRIT", "communities": "Communities"}


def describe_scaling(config: SamplerConfig, batches: "EpochBatches") -> list[str]:
    """Say in a line what was scaled down to the data; no line where nothing was."""
    wanted, used = config.grouped(), batches.grouping
    if used is None or used == wanted:
        return []
    return [
        f"{_NAMES[config.kind]} on {batches.count:,} pairs: search_space {wanted.search_space:,} -> "
        f"{used.search_space:,}, queue_size {wanted.queue_size:,} -> {used.queue_size:,}"
    ]


class EpochBatches:
    """The batches of each epoch for one rank, from any point on: what every kind of sampler is.

    A new kind is a subclass that writes :meth:`visits` and :meth:`global_batches`, and a line in ``SAMPLERS``.

    Args:
        config: of the sampler.
        rows: what there is to sample.

    Raises:
        ConfigError: the pairs do not fill one global batch.
    """

    def __init__(self, config: SamplerConfig, rows: SampledRows) -> None:
        self.config = config
        self.count = rows.count
        self.seed = rows.seed
        self.ranks = rows.ranks
        self.labels = rows.labels
        self.global_batch = rows.batch_size * rows.ranks.count
        self.per_epoch = rows.count // self.global_batch
        if not self.per_epoch:
            raise ConfigError(
                f"{rows.count} training pairs do not fill one batch of {self.global_batch}; lower loop.batch_size"
            )

    @property
    def grouping(self) -> GroupedConfig | None:
        """The sizes of grouped sampling as used; None for random batches."""
        return None

    def visits(self, epoch: int, start: int) -> Visits:
        """This rank's batches of an epoch from batch ``start`` on."""
        raise NotImplementedError

    def ahead(self, epoch: int, start: int, epochs: int) -> Visits:
        """This rank's batches from a batch on: of this epoch, and of those after it that are known already.

        Args:
            epoch: the present one.
            start: its next batch.
            epochs: those of the run.
        """
        return self.visits(epoch, start)

    def global_batches(self, epoch: int) -> list[Indices]:
        """All batches of an epoch over all ranks: dataset indices [global batch] each."""
        raise NotImplementedError

    def rewarded(self, step: int) -> bool:
        """Whether the sampler wants to know what a training step gains: the fall of a loss over it.

        Args:
            step: finished optimizer steps.
        """
        return False

    def trained(
        self,
        index: Tensor,
        image_features: Tensor | None,
        text_features: Tensor | None,
        reward: float | None = None,
        probable: Tensor | None = None,
    ) -> None:
        """Take note of a batch that has been trained on; all ranks call this together.

        Args:
            index: dataset indices of this rank's batch [B].
            image_features: that the step computed of them [B, E]; None where it computes none.
            text_features: of their texts [B, E].
            reward: what the step gained, the same on all ranks; None where it was not measured.
            probable: pairs of dataset indices that it found to match probably [P, 2]; the same on all ranks.
        """

    def skipped(self) -> None:
        """Take note of a batch that was not trained on."""

    def warnings(self) -> list[str]:
        """What of the data these batches cannot do right, a line each."""
        return []

    def figures(self, epoch: int) -> dict[str, float]:
        """Figures of an epoch's batches that are known before it is trained: how many partners show the same.

        ``random_false_negative_rate`` is what random batches have on average.
        """
        if self.labels is None:
            return {}
        actual = shared_label_rate(self.global_batches(epoch), self.labels)
        return {"false_negative_rate": actual, "random_false_negative_rate": self._random_rate}

    @cached_property
    def _random_rate(self) -> float:
        assert self.labels is not None
        return shared_label_rate([np.arange(self.count)], self.labels)

    def state_dict(self) -> dict[str, Tensor]:
        """What :meth:`load_state_dict` needs: tensors by name, each as its sampler shapes it."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""


class RandomBatches(EpochBatches):
    """A fresh permutation each epoch: a pure function of seed and epoch, for any number of ranks."""

    def global_batches(self, epoch: int) -> list[Indices]:
        """All batches of an epoch over all ranks: dataset indices [global batch] each."""
        return random_batches(self.count, self.global_batch, seed=self.seed, epoch=epoch)

    def visits(self, epoch: int, start: int = 0) -> Visits:
        """This rank's batches of an epoch from batch ``start`` on."""
        batches = self.global_batches(epoch)[start:]
        return _visits(epoch, (rank_share(batch, self.ranks.rank, self.ranks.count) for batch in batches))

    def ahead(self, epoch: int, start: int, epochs: int) -> Visits:
        """This rank's batches to the end of the run."""
        yield from self.visits(epoch, start)
        for later in range(epoch + 1, epochs):
            yield from self.visits(later)


class GroupedBatches(EpochBatches):
    """Random in epoch 0, then grouped by the features that training computes anyway: walks, or communities."""

    def __init__(self, config: SamplerConfig, rows: SampledRows) -> None:
        super().__init__(config, rows)
        keys = rows.keys if config.separate_known else None
        known = None if keys is None and config.hardness.below is None else KnownMatches(keys, rows.apart)
        self.sampler = GroupedBatchSampler(
            rows.count,
            rows.batch_size,
            config=config.grouped().scaled(rows.count, self.global_batch),
            seed=rows.seed,
            ranks=rows.ranks,
            known=known,
            plan_folder=rows.plan_folder,
        )

    @property
    def grouping(self) -> GroupedConfig:
        """The sizes, scaled to the data."""
        return self.sampler.config

    def global_batches(self, epoch: int) -> list[Indices]:
        """All batches of the present epoch over all ranks: dataset indices [global batch] each.

        Raises:
            ConfigError: the sampler does not stand at this epoch.
        """
        self._require(epoch, self.sampler.step)
        return [self.sampler.step_samples(step) for step in range(self.per_epoch)]

    def visits(self, epoch: int, start: int) -> Visits:
        """This rank's batches of the present epoch, from the one that follows the last that was trained on.

        Raises:
            ConfigError: that one is not batch ``start`` of ``epoch``.
        """
        self._require(epoch, start)
        return _visits(epoch, self.sampler)

    def rewarded(self, step: int) -> bool:
        """Whether hardness is learned, and from this step."""
        learned = self.config.hardness.learned
        return learned is not None and self.sampler.epoch > 0 and step % learned.every == 0

    def trained(
        self,
        index: Tensor,
        image_features: Tensor | None,
        text_features: Tensor | None,
        reward: float | None = None,
        probable: Tensor | None = None,
    ) -> None:
        """Collect the features [B, E], the reward and probable matches; after the last batch, plan the next epoch.

        Raises:
            ConfigError: the step computes no features.
        """
        if image_features is None or text_features is None:
            raise ConfigError(
                f"sampler.kind is '{self.config.kind}', but this training step has no features to go by; give random"
            )
        if reward is not None:
            self.sampler.learn(reward)
        if probable is not None:
            self.sampler.suspect(probable)
        self.sampler.collect(index, image_features, text_features)

    def skipped(self) -> None:
        """The samples of this batch take random places in the next epoch."""
        self.sampler.skip()

    def warnings(self) -> list[str]:
        """Say in a line that some pictures or captions stand in more rows than an epoch has batches."""
        crowded = np.empty(0, np.int64) if self.sampler.known is None else self.sampler.known.crowded(self.per_epoch)
        if not len(crowded):
            return []
        return [
            f"{len(crowded):,} picture(s) or caption(s) stand in more rows than the {self.per_epoch:,} batches of an "
            f"epoch (the largest in {crowded.max():,}): some of their rows meet in a batch, where they count as matches"
        ]

    def figures(self, epoch: int) -> dict[str, float]:
        """The rates of an epoch's batches, how many samples meet one kept apart, and quantiles if learned."""
        figures = super().figures(epoch)
        apart = self.sampler.apart
        if apart is not None:
            samples = np.concatenate(self.global_batches(epoch))
            batch = np.repeat(np.arange(self.per_epoch), self.global_batch)
            figures["clashes"] = float(len(apart.clashes(samples, batch)))
        if isinstance(self.sampler.hardness, LearnedHardness):
            figures |= self.sampler.hardness.figures()
        return figures

    def state_dict(self) -> dict[str, Tensor]:
        """Features collected, walks, and where the epoch stands."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.sampler.load_state_dict(state)

    def _require(self, epoch: int, start: int) -> None:
        if (epoch, start) != (self.sampler.epoch, self.sampler.step):
            raise ConfigError(
                f"the sampler stands at batch {self.sampler.step} of epoch {self.sampler.epoch}, not at {start} of "
                f"{epoch}; each batch must be trained on once, in order"
            )


SAMPLERS: dict[str, type[EpochBatches]] = {
    "random": RandomBatches,
    "grit": GroupedBatches,
    "communities": GroupedBatches,
}
"""Each kind of sampler, by the name that ``SamplerConfig.kind`` takes."""


def hardest_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Similarity of each sample's hardest negative in its batch.

    Args:
        image: Normalised image features [B, D], or [B, Q, D] of a model with queries.
        text: Normalised text features [B, D].

    Returns:
        The mean over both directions (image to other texts, text to other images) of the largest cosine, [B]; -inf
        in a batch of one.
    """
    similarity = similarities(image, text).fill_diagonal_(-torch.inf)  # [B, B]
    return (similarity.amax(dim=1) + similarity.amax(dim=0)) / 2


def shared_label_rate(batches: Iterable[Indices], labels: Indices) -> float:
    """Share of the pairs of samples within batches that have the same label: the rate of false negatives.

    Args:
        batches: Dataset indices of each batch.
        labels: What each sample shows, int64 [N]; a negative label is like no other.

    Returns:
        A share from 0 to 1; 0 when there are no pairs.
    """
    shared = pairs = 0
    for batch in batches:
        pairs += len(batch) * (len(batch) - 1) // 2
        _, counts = np.unique(labels[batch][labels[batch] >= 0], return_counts=True)
        shared += int((counts * (counts - 1) // 2).sum())
    return shared / pairs if pairs else 0.0


def _visits(epoch: int, batches: Iterable[Iterable[int]]) -> Visits:
    for batch in batches:
        yield [Visit(epoch, int(index)) for index in batch]
