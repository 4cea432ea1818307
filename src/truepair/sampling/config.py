"""The sizes of grouped sampling."""

import dataclasses
from dataclasses import dataclass, field

from truepair.errors import ConfigError
from truepair.sampling.hardness import HardnessConfig

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
    """

    queue_size: int = 48_000
    search_space: int = 1_920
    group_size: int | None = None
    storage: str = "float32"
    hardness: HardnessConfig = field(default_factory=HardnessConfig)

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
