"""Which fields of a recipe belong to a run, and which may change while it lasts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from truepair.files import finite

# How long, how fast, where and how closely watched: a run may go on with other values.
_FREE = (
    "loop.",
    "optimizer.",
    "evaluation.",
    "data.sources",
    "data.train",
    "data.validation",
    "data.test",
    "data.max_bad_fraction",
    "model.cache_folder",
    "model.cache_check",
    "model.interpolate",
    "zero_shot.largest_fall",
    "zero_shot.batch_size",
    "zero_shot.workers",
)

_FREE_IN_PARTS = tuple(f"assignment.{name}" for name in _FREE)

# ... but a finished run has no more use for these, and its result is that of the old ones.
_SETTLED = ("optimizer.", "assignment.optimizer.")


def settings_of(recipe: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a recipe that may not change in a run, and those that may not once it has finished.

    Args:
        recipe: a dataclass, or what its YAML file says.

    Returns:
        Values of JSON types by dotted name, twice.
    """
    values = json.loads(json.dumps(finite(recipe if isinstance(recipe, Mapping) else asdict(recipe)), default=str))
    every = dict(_leaves(values))
    bound = {name: value for name, value in every.items() if not _is_among(name, (*_FREE, *_FREE_IN_PARTS))}
    return bound, {name: value for name, value in every.items() if _is_among(name, _SETTLED)}


def _is_among(name: str, fields: Sequence[str]) -> bool:
    """Whether a dotted name is one of some fields, or lies in one of those that end in a point: groups of fields."""
    return any(name.startswith(field) if field.endswith(".") else name == field for field in fields)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a list is one value."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
