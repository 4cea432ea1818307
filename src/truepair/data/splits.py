"""The rows a run trains on, validates on and tests on: splits, and groups of some size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError
from truepair.randomness import stable_hash

_SPAN = 2**63  # of a stable hash

_STEP = 5_700_357_409_661_599_241  # the golden ratio's share of it: the shares of the first few seeds hardly overlap


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pairs come from.

    Attributes:
        sources: files, folders or hub names, concatenated; "sample" is the bundled sample. Instead of a name, the
            fields of ``SourceConfig`` say how a source is to be read.
        train_split: split to train on; empty for all rows.
        validation_split: split for validation figures and for choosing how to combine scores; empty for none.
        test_split: split for the final figures; empty for none.
        captions: "draw" draws one of an image's captions per visit, "first" takes the first, "pairs" visits every one.
        min_group_size: keep only rows whose group has this many rows over all splits (needs a ``group`` column); 0 for
            all.
        max_group_size: keep only rows whose group has at most this many; 0 for all.
        groups: draw this many of the groups that are left; 0 for all.
        group_seed: which ones are drawn, and which share of them.
        other_groups: take all groups that the settings above leave out instead: clean pairs for judges and seed models,
            which then share no group with a run that is otherwise the same.
        group_share: keep only this share of the groups, chosen by a hash of their names.
        drawings: keep at most this many training rows of a group; 0 for all.
        unseen_share: share of the groups of a size that fits that no run trains on, whatever its seed, ``other_groups``
            included; the final figures are measured on all their rows as well.
        transform: image size and augmentation.
        max_bad_fraction: largest share of unreadable images that a run puts up with.
    """

    sources: list[str | SourceConfig] = field(default_factory=lambda: ["sample"])
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    captions: str = "draw"
    min_group_size: int = 0
    max_group_size: int = 0
    groups: int = 0
    group_seed: int = 0
    other_groups: bool = False
    group_share: float = 1.0
    drawings: int = 0
    unseen_share: float = 0.0
    transform: TransformConfig = field(default_factory=TransformConfig)
    max_bad_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.captions not in ("draw", "first", "pairs"):
            raise ConfigError(f"data.captions is '{self.captions}'; give draw, first or pairs")
        if not 0.0 < self.group_share <= 1.0:
            raise ConfigError(f"data.group_share is {self.group_share}; give a number above 0, up to 1")
        if not 0.0 <= self.unseen_share < 1.0:
            raise ConfigError(f"data.unseen_share is {self.unseen_share}; give a number from 0 to below 1")
        for name in ("min_group_size", "max_group_size", "groups", "drawings"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give 0 or more")
        if not self.sources:
            raise ConfigError("data.sources is empty; name at least one file, folder or hub name")

    @property
    def named(self) -> str:
        """The sources as they were given, for titles."""
        return ", ".join(source if isinstance(source, str) else source.source for source in self.sources)


@dataclass(frozen=True)
class Tables:
    """The pairs of a run, by split, and those of unseen groups; None where none are asked for, or none are there."""

    train: PairTable
    validation: PairTable | None
    test: PairTable | None
    unseen: PairTable | None = None


def open_sources(config: DataConfig) -> PairTable:
    """All rows of a recipe's sources.

    Raises:
        DataError: a source cannot be read.
    """
    return PairTable.concat([open_pairs(source) for source in config.sources])


def build_tables(config: DataConfig) -> Tables:
    """Open the sources and take their splits apart.

    Raises:
        DataError: a source cannot be read, or nothing is left to train on.
        ConfigError: a field that needs a ``group`` column, without one.
    """
    table = open_sources(config)
    unseen = None
    if _needs_groups(config):
        choice = choose_groups(_group_column(table), config)
        if not choice.chosen:
            raise ConfigError(
                f"no group of {table.name} is left; change data.min_group_size, max_group_size, groups or group_share"
            )
        unseen = _rows_of_groups(table, choice.unseen) if choice.unseen else None
        table = _rows_of_groups(table, choice.chosen)
    present = table.splits

    def part(split: str) -> PairTable | None:
        """A split, or several, if it is asked for and there."""
        return table.split(split) if split and present.keys() >= set(split.split("+")) else None

    train = table.split(config.train_split) if config.train_split else table
    if config.drawings:
        train = _few_of_each(train, config.drawings, config.group_seed)
    if config.captions == "pairs":
        train = train.as_pairs()
    return Tables(train, part(config.validation_split), part(config.test_split), unseen)


@dataclass(frozen=True)
class GroupChoice:
    """The groups of a run.

    Attributes:
        chosen: to train on, and to test on with other images.
        unseen: no run with this ``unseen_share`` trains on them, whatever else it draws.
    """

    chosen: frozenset[str]
    unseen: frozenset[str]


def _needs_groups(config: DataConfig) -> bool:
    """Whether a recipe speaks of groups at all."""
    return bool(
        config.min_group_size
        or config.max_group_size
        or config.groups
        or config.drawings
        or config.other_groups
        or config.unseen_share
        or config.group_share < 1.0
    )


def choose_groups(groups: Sequence[str | None], config: DataConfig) -> GroupChoice:
    """Choose among the groups of all rows of a table, over all splits.

    Of the groups of a size that fits, some are kept back as unseen, and ``groups`` of the rest are drawn; or, with
    ``other_groups``, those that this leaves out are taken. Last comes the share.

    Args:
        groups: the group of each row.
        config: what is asked for.

    Raises:
        ConfigError: there are fewer groups than ``groups`` asks for.
    """
    sizes = Counter(group for group in groups if group is not None)
    most = config.max_group_size or len(groups)
    fitting = {group for group, size in sizes.items() if config.min_group_size <= size <= most}
    unseen = {group for group in fitting if stable_hash("unseen group", group) < config.unseen_share * _SPAN}
    order = sorted(fitting - unseen, key=lambda group: stable_hash("group", config.group_seed, group))
    if config.groups > len(order):
        raise ConfigError(f"data.groups asks for {config.groups} groups, and there are {len(order)}; ask for fewer")
    drawn = set(order[: config.groups or None])
    chosen = set(sizes) - unseen - drawn if config.other_groups else drawn
    shift = config.group_seed * _STEP
    shared = {
        group for group in chosen if (stable_hash("group share", group) + shift) % _SPAN < config.group_share * _SPAN
    }
    return GroupChoice(frozenset(shared), frozenset(unseen))


def _group_column(table: PairTable) -> list[str | None]:
    """The group of each row.

    Raises:
        ConfigError: the table has none.
    """
    if "group" not in table.rows.column_names:
        raise ConfigError(
            "data.min_group_size, max_group_size, groups, drawings, other_groups, unseen_share and group_share need a "
            f"group column, which {table.name} has not; leave them out"
        )
    return table.values("group")


def _rows_of_groups(table: PairTable, wanted: frozenset[str]) -> PairTable:
    """The rows of some groups."""
    return table.select(row for row, group in enumerate(_group_column(table)) if group in wanted)


def _few_of_each(table: PairTable, most: int, seed: int) -> PairTable:
    """At most so many rows of each group, chosen by a hash of their images; with fewer, some of the same."""
    groups = _group_column(table)
    order = np.argsort([stable_hash("drawing", seed, int(image)) for image in table.image_ids], kind="stable")
    seen: Counter[str | None] = Counter()
    kept: list[int] = []
    for row in order.tolist():
        seen[groups[row]] += 1
        if seen[groups[row]] <= most:
            kept.append(row)
    chosen: NDArray[np.int64] = np.sort(np.asarray(kept, np.int64))
    return table.select(chosen)
