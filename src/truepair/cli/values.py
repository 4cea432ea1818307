"""Nested values, as a recipe states them, made into its dataclass by jsonargparse, and what is wrong where it refuses.

Names are checked against what the sources say, since the classes take seconds to import, and jsonargparse names no
nearest one. It folds every mistake into one text of many lines; so the field at fault is found here, by asking it about
one field after the other.
"""

import copy
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from truepair.cli.fields import Field, RecipeClass, Section
from truepair.errors import ConfigError, nearest, shortened
from truepair.settings import check_settings

_Recipe = TypeVar("_Recipe")


def check_names(values: Mapping[str, Any], section: Section, where: str) -> None:
    """Check every name that is stated, those in items of lists as well.

    Args:
        values: groups of fields.
        section: their dataclass.
        where: where they are stated, for messages.

    Raises:
        ConfigError: there is no field of a name, or an item is none of the classes that it may be.
    """
    _check_group(values, section.dotted(), where)


def listed(values: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """The same values, with a list of one where a single item stands for a list of groups: ``sources: pairs.csv``.

    Args:
        values: groups of fields.
        section: their dataclass.
    """
    found = dict(values)
    for name, value in values.items():
        field = section.fields.get(name)
        if field is None or value is None:
            continue
        if field.items and not (field.text or field.sections or field.free) and isinstance(value, str | Mapping):
            found[name] = [value]
        elif isinstance(value, Mapping):
            for part in field.sections:
                found[name] = listed(found[name], part)
    return found


def make(
    kind: RecipeClass[_Recipe], values: Mapping[str, Any], stated_by: Callable[[str], str] = lambda _: ""
) -> _Recipe:
    """Make a dataclass of some of its fields and the defaults of the others.

    Args:
        kind: the dataclass.
        values: groups of fields, whose names are checked.
        stated_by: dotted name of a field -> what states it, a file or the words that were called, for messages.

    Raises:
        ConfigError: a value is of the wrong type, or the class itself refuses it.
    """
    try:
        made = _made(kind, values)
        check_settings(made)
        return made
    except ConfigError:
        raise
    except Exception as error:  # jsonargparse raises many kinds; each is a mistake in the recipe or the command
        fault = next(_faults(values, kind.section), _Fault("", shortened(error)))
        where = stated_by(fault.field) if fault.field else ""
        raise ConfigError((f"{where}: " if where else "") + fault.reason) from error


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a value.

    Attributes:
        field: dotted name of the field that is at fault; empty where the reason names it.
        reason: what is wrong, in words.
    """

    field: str
    reason: str


def _check_group(values: Mapping[str, Any], known: Mapping[str, Field], where: str, prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        field = known.get(name)
        if field is None:
            leaf = _first_leaf(name, value)
            raise ConfigError(f"{where}: there is no field {shortened(leaf)}{nearest(leaf, known)}")
        if _is_group(field) and not isinstance(value, Mapping) and not (value is None and field.nullable):
            # jsonargparse passes over some of these
            said = "null" if value is None else shortened(value)
            raise ConfigError(f"{where}: {name}: {said} is no group of fields; state its fields, or leave it out")
        if value is None and not (field.nullable or field.type == "Any"):
            raise ConfigError(f"{where}: {name} is null; give {_wanted(field)}, or leave it out")
        if field.sections and isinstance(value, Mapping) and not field.free:
            _check_group(value, known, where, f"{name}.")
        elif field.items and isinstance(value, list):
            for number, item in enumerate(value, start=1):
                if isinstance(item, Mapping):
                    _check_item(item, field.items, f"{where}: item {number} of {name}")


def _is_group(field: Field) -> bool:
    """Whether a value of a field can be nothing but a group of fields, or None where that is allowed."""
    kinds = {section.kind.name for section in field.sections}
    others = {part.strip() for part in field.type.split("|")} - kinds - {"None"}
    return bool(kinds) and not (others or field.free)


def _check_item(item: Mapping[str, Any], sections: Sequence[Section], where: str) -> None:
    """Check an item of a list against the class that it names, such as a rule by its ``detector``."""
    chooser = _chooser(sections)
    if chooser is not None:
        choices = [str(choice) for section in sections for choice in section.fields[chooser].choices]
        if chooser not in item:
            raise ConfigError(f"{where}: it has no {chooser}; give one of {', '.join(choices)}")
        word = str(item[chooser])
        if word not in choices:
            hint = nearest(word, choices) or f"; give one of {', '.join(choices)}"
            raise ConfigError(f"{where}: there is no {chooser} '{word}'{hint}")
    known: dict[str, Field] = {}
    for section in _meant(item, sections):
        known |= section.dotted()
    _check_group(item, known, where)


def _chooser(sections: Sequence[Section]) -> str | None:
    """The field whose value says which of several classes is meant: a ``Literal`` of its own in each."""
    for name in sections[0].fields if len(sections) > 1 else ():
        choices = [section.fields[name].choices if name in section.fields else () for section in sections]
        if all(choices) and len({choice for own in choices for choice in own}) == sum(map(len, choices)):
            return name
    return None


def _meant(values: Mapping[str, Any], sections: Sequence[Section]) -> Sequence[Section]:
    """The class that values name; all of several where they name none."""
    chooser = _chooser(sections)
    if chooser is None:
        return sections
    return [section for section in sections if values.get(chooser) in section.fields[chooser].choices] or sections


def _first_leaf(name: str, value: Any) -> str:
    """The dotted name of the first value in a group."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    return name


def _made(kind: RecipeClass[_Recipe], values: Mapping[str, Any]) -> _Recipe:
    parser = _parser_of(kind)
    # A copy: jsonargparse writes into lists of dataclasses, which belong to the caller.
    parsed = parser.parse_object(copy.deepcopy(dict(values)), defaults=True) if values else parser.get_defaults()
    return kind.load()(**vars(parser.instantiate(parsed)))


@cache
def _parser_of(kind: RecipeClass[Any]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(kind.load(), None)
    return parser


def _faults(values: Mapping[str, Any], section: Section, prefix: str = "") -> Iterator[_Fault]:
    """What is wrong with values that jsonargparse refuses, field by field."""
    hints = typing.get_type_hints(section.kind.load())
    for name, value in values.items():
        field = section.fields.get(name)
        if field is None:
            reason = f"{prefix}{name}: {section.kind.name} has no such field{nearest(name, section.fields)}"
            yield _Fault(f"{prefix}{name}", reason)
        elif isinstance(value, Mapping) and field.sections:
            yield from _faults_in(value, field.sections, f"{prefix}{name}.")
        elif isinstance(value, list) and field.items and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, start=1):
                if isinstance(item, Mapping):
                    for fault in _faults_in(item, field.items, f"item {number} of {prefix}{name}: "):
                        yield _Fault(f"{prefix}{name}", fault.reason)
        elif not _is_a(value, hints[name]):
            wanted = f"none of {', '.join(map(repr, field.choices))}" if field.choices else f"no {_kind(field)}"
            yield _Fault(f"{prefix}{name}", f"{prefix}{name}: {shortened(value)} is {wanted}")
    for name, field in section.fields.items():
        if field.default is None and name not in values:
            yield _Fault(prefix.removesuffix("."), f"{prefix}{name} is missing; give it")
    try:
        _made(section.kind, values)
    except ConfigError as error:  # the class itself refuses its values; it names its section, but no item
        yield _Fault("", f"{prefix if prefix.endswith(': ') else ''}{error}")
    except Exception:  # one of the above
        return


def _wanted(field: Field) -> str:
    """What a value of a field may be, in words."""
    return f"one of {', '.join(map(repr, field.choices))}" if field.choices else f"a value of type {_kind(field)}"


def _kind(field: Field) -> str:
    """The type of a field, in words."""
    kind = "group of fields" if field.sections else field.type.replace(" | None", "")
    return kind.replace("list[dict[str, Any]]", "list of groups of fields")


def _faults_in(values: Mapping[str, Any], sections: Sequence[Section], prefix: str) -> Iterator[_Fault]:
    """What is wrong with values that may be of several classes; nothing if one of them takes them."""
    found = [next(_faults(values, section, prefix), None) for section in _meant(values, sections)]
    if found[0] is not None and all(found):
        yield found[0]


def _is_a(value: Any, hint: Any) -> bool:
    """Whether jsonargparse takes a value for one of a type."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.instantiate(parser.parse_object({"value": copy.deepcopy(value)}))
    except ConfigError:  # of the type, but what the class itself refuses
        return True
    except Exception:  # it raises many kinds
        return False
    return True
