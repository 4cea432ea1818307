"""Which numbers a setting may be: the bounds stand beside their fields, and all are checked in one place.

``workers: Natural = 2`` is an int that is not negative. Whatever its bounds, a number is finite and fits in 64 bits.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

from truepair.errors import ConfigError, shortened

_INTEGERS = 2**63


@dataclass(frozen=True)
class Within:
    """Bounds of a number.

    Attributes:
        low: the smallest that it may be.
        high: the largest that it may be; absent where it has no upper bound.
        above: it may not be ``low`` itself.
        below: it may not be ``high`` itself.
    """

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies within."""
        if not value >= self.low or (self.above and value == self.low):  # what is not a number is nowhere
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    @property
    def words(self) -> str:
        """What to give: "1 or more", "a number from 0 to below 1"."""
        if self.high is None:
            return f"a number above {self.low:g}" if self.above else f"{self.low:g} or more"
        start = f"above {self.low:g}, " if self.above else f"from {self.low:g} "
        end = ("below " if self.above else "to below ") if self.below else ("up to " if self.above else "to ")
        return f"a number {start}{end}{self.high:g}"


Natural = Annotated[int, Within(0)]
Positive = Annotated[int, Within(1)]
Weight = Annotated[float, Within(0)]
Rate = Annotated[float, Within(0, above=True)]
Share = Annotated[float, Within(0, 1)]
PartShare = Annotated[float, Within(0, 1, below=True)]
SomeShare = Annotated[float, Within(0, 1, above=True)]


def check_settings(settings: Any, section: str = "") -> None:
    """Check every number of a dataclass of settings, those of the dataclasses and lists in it as well.

    Args:
        settings: the dataclass.
        section: dotted name of the group that it is, for messages; empty for the outermost.

    Raises:
        ConfigError: a number is out of its bounds, not finite, or too large.
    """
    for name, hint in _hints(type(settings)).items():
        _check(getattr(settings, name), hint, f"{section}.{name}" if section else name)


def check_types(values: Mapping[str, Any], kind: type, where: str) -> None:
    """Check values for the fields of a class that no parser has read, such as those of a config file.

    Args:
        values: by field.
        kind: the class, whose own fields have simple types: int, ``float | None``, ``dict[str, Any]``.
        where: what they are of, for messages; empty where those say it otherwise.

    Raises:
        ConfigError: a value is of another type.
    """
    for name, hint in kind.__annotations__.items():
        outer: Any = get_origin(hint)
        if name in values and outer is not ClassVar and not is_of(values[name], hint):
            value = f"{name}{f' of {where}' if where else ''} is {shortened(repr(values[name]))}"
            raise ConfigError(f"{value}; give a value of type {_named(hint)}")


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a class, a union, one with bounds, a list or a dict of such. An int is a float."""
    kind: Any = get_origin(hint) or hint
    parts = get_args(hint)
    if kind in (UnionType, Union):
        return any(is_of(value, part) for part in parts)
    if kind is Annotated:
        return is_of(value, parts[0])
    if kind is Any:
        return True
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float)
    if not isinstance(value, kind):
        return False
    if kind is list and parts:
        return all(is_of(item, parts[0]) for item in value)
    return kind is not dict or not parts or all(is_of(key, parts[0]) and is_of(value[key], parts[1]) for key in value)


def _named(hint: Any) -> str:
    """A type in words: ``list[int] | None`` as "list of int"."""
    if get_origin(hint) in (UnionType, Union):
        return " or ".join(_named(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Annotated:
        return _named(get_args(hint)[0])
    return f"list of {_named(get_args(hint)[0])}" if get_origin(hint) is list else (get_origin(hint) or hint).__name__


def _hints(kind: type) -> dict[str, Any]:
    """Fields and their types, with bounds."""
    hints = get_type_hints(kind, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind)}


def _check(value: Any, hint: Any, name: str) -> None:
    if dataclasses.is_dataclass(value):
        check_settings(value, name)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _check(part, None, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for part in value:
            _check(part, hint, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} is {value}; give a finite number")
        if isinstance(value, int) and abs(value) >= _INTEGERS:
            raise ConfigError(f"{name} is a number of {len(f'{abs(value):x}') * 4} bits; give one of 63 or fewer")
        wrong = next((bounds for bounds in _bounds(hint) if not bounds.holds(value)), None)
        if wrong is not None:
            raise ConfigError(f"{name} is {value}; give {wrong.words}")


def _bounds(hint: Any) -> Iterator[Within]:
    """The bounds in a type: ``Share | None``, ``list[Share]``."""
    if get_origin(hint) is Annotated:
        yield from (mark for mark in hint.__metadata__ if isinstance(mark, Within))
    for part in get_args(hint):
        yield from _bounds(part)
