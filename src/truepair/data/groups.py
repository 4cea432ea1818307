"""Which groups of pairs a run takes: of some size, some of them, or a share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.randomness import stable_hash

if TYPE_CHECKING:
    from truepair.data.splits import DataConfig

_SPAN = 2**63  # of a stable hash

_STEP = 5_700_357_409_661_599_241  # the golden ratio's share of it: the shares of the first few seeds hardly overlap

_CHOOSING = ("min_group_size", "max_group_size")
"""Fields that choose among groups, and so nothing where there are none."""

_FIELDS = (*_CHOOSING, "groups", "drawings", "other_groups", "unseen_share", "group_share")
"""Fields of ``DataConfig`` that speak of groups."""


@dataclass(frozen=True)
class GroupChoice:
    """The groups of a run.

    Attributes:
        chosen: to train on, and to test on with other images.
        unseen: no run with this ``unseen_share`` trains on them, whatever else it draws.
    """

    chosen: frozenset[str]
    unseen: frozenset[str]


def followed_groups(table: PairTable, config: "DataConfig") -> tuple[GroupChoice | None, list[str]]:
    """The groups that the settings choose, and what is to be said of it.

    A recipe that asks for groups of some size is meant for data with groups; other pairs are taken as they are, and a
    line says so. The other settings would mean something else without groups.

    Args:
        table: all rows.
        config: what is asked for.

    Returns:
        The choice, None for all rows; and lines for people.

    Raises:
        ConfigError: the table has no groups, and the settings need them; or no group is left.
    """
    defaults = {one.name: one.default for one in fields(config)}
    asked = {name: getattr(config, name) for name in _FIELDS if getattr(config, name) != defaults[name]}
    if not asked:
        return None, []
    if "group" not in table.rows.column_names:
        needed = {name: value for name, value in asked.items() if name not in _CHOOSING}
        if not needed:
            return None, [f"{table.name} has no group column, so nothing is left out by {_listed(asked)}"]
        undone = " ".join(f"--data.{name} {str(defaults[name]).lower()}" for name in needed)
        raise ConfigError(
            f"{_listed(needed)} needs a group column, which {table.name} has not; to do without, give {undone}"
        )
    groups = table.values("group")
    choice = choose_groups(groups, config)
    if not choice.chosen:
        raise ConfigError(f"no group of {table.name} is left by {_listed(asked)}; change that")
    taken = sum(group in choice.chosen for group in groups)
    if taken == len(groups):
        return choice, []
    loose = sum(group is None for group in groups)
    note = f"{taken:,} of {len(groups):,} pairs are left by {_listed(asked)}"
    return choice, [f"{note}; {loose:,} of those left out state no group" if loose else note]


def choose_groups(groups: Sequence[str | None], config: "DataConfig") -> GroupChoice:
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


def rows_of_groups(table: PairTable, wanted: frozenset[str]) -> PairTable:
    """The rows of some groups."""
    return table.select(row for row, group in enumerate(table.values("group")) if group in wanted)


def few_of_each(table: PairTable, most: int, seed: int) -> PairTable:
    """At most so many rows of each group, chosen by a hash of their images; with fewer, some of the same."""
    groups = table.values("group")
    order = np.argsort([stable_hash("drawing", seed, int(image)) for image in table.image_ids], kind="stable")
    seen: Counter[str | None] = Counter()
    kept: list[int] = []
    for row in order.tolist():
        seen[groups[row]] += 1
        if seen[groups[row]] <= most:
            kept.append(row)
    chosen: NDArray[np.int64] = np.sort(np.asarray(kept, np.int64))
    return table.select(chosen)


def _listed(values: Mapping[str, Any]) -> str:
    """Fields with their values, as in "data.groups 7 and data.drawings 2"."""
    return " and ".join(f"data.{name} {value}" for name, value in values.items())
