"""Which groups of a table a run trains on: of some size, a drawn few, or those that others leave alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from truepair.data.randomness import stable_hash
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.training.recipe import DataConfig

_SPAN = 2**63  # of a stable hash
_STEP = 5_700_357_409_661_599_241  # the golden ratio's share of it: the shares of the first few seeds hardly overlap


@dataclass(frozen=True)
class GroupChoice:
    """The groups of a run.

    Attributes:
        chosen: to train on, and to test on with other images.
        unseen: no run with this ``unseen_share`` trains on them, whatever else it draws.
    """

    chosen: frozenset[str]
    unseen: frozenset[str]


def needs_groups(config: DataConfig) -> bool:
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


def group_column(table: PairTable) -> list[str | None]:
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


def rows_of_groups(table: PairTable, wanted: frozenset[str]) -> PairTable:
    """The rows of some groups."""
    return table.select(row for row, group in enumerate(group_column(table)) if group in wanted)


def few_of_each(table: PairTable, most: int, seed: int) -> PairTable:
    """At most so many rows of each group, chosen by a hash of their images; with fewer, some of the same."""
    groups = group_column(table)
    order = np.argsort([stable_hash("drawing", seed, int(image)) for image in table.image_ids], kind="stable")
    seen: Counter[str | None] = Counter()
    kept: list[int] = []
    for row in order.tolist():
        seen[groups[row]] += 1
        if seen[groups[row]] <= most:
            kept.append(row)
    chosen: NDArray[np.int64] = np.sort(np.asarray(kept, np.int64))
    return table.select(chosen)
