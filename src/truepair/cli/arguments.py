"""Recipes and command-line overrides, read into typed dataclasses by jsonargparse."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from truepair.cli.layers import laid_over, read_layers
from truepair.errors import ConfigError
from truepair.spelling import nearest

Recipe = TypeVar("Recipe")


def read_recipe(kind: type[Recipe], paths: Sequence[Path], overrides: Sequence[str], *, command: str) -> Recipe:
    """Read recipe files and the overrides of their fields into a dataclass.

    Args:
        kind: the dataclass.
        paths: YAML files with any of its fields, each laid over the ones before: a field that is not stated stays as it
            is, a list is replaced whole. A file may name others to lie under it: ``base: [NAME]``.
        overrides: ``--any.field value`` words, which win over the file.
        command: the words that lead to this parser, for its help.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type, an unreadable file.
    """
    parser = _Parser(prog=command, exit_on_error=False, default_env=False)
    parser.add_class_arguments(kind, None)
    fields = field_names(kind)
    for word in overrides:
        if word.startswith("--") and word != "--help":
            _check_name(word[2:].split("=")[0], fields, f"{command}: there is no option --")
    values: dict[str, Any] = {}
    for path in paths:
        for layer, stated in read_layers(path):
            for name in _leaf_names(stated):
                _check_name(name, fields, f"{layer}: there is no field ")
            values = laid_over(values, stated)
    words = list(overrides)
    for name, value in _take_optional(words, kind):
        values = laid_over(values, _nested(name, value))
    try:
        parsed = parser.parse_object(values, defaults=True) if values else parser.get_defaults()
        parsed = parser.parse_args(words, namespace=parsed)
        return kind(**_instances(parser, parsed))
    except (SystemExit, ConfigError):
        raise
    except Exception as error:  # jsonargparse raises many kinds; each is a mistake in the recipe or the command
        where = f"{', '.join(map(str, paths))}: " if paths else ""
        raise ConfigError(where + _one_line(str(error))) from error


def _check_name(name: str, fields: dict[str, bool], complaint: str) -> None:
    """Raise unless the name is a field, or lies inside a field that holds free keys."""
    parents = {name[:end] for end, letter in enumerate(name) if letter == "."}
    if name not in fields and not any(fields.get(parent) is False for parent in parents):
        raise ConfigError(f"{complaint}{name}{nearest(name, fields)}")


def _take_optional(words: list[str], kind: type) -> list[tuple[str, str]]:
    """Take ``--section.field value`` out of the words where the section may be absent from a recipe.

    jsonargparse cannot lay single fields over such a section; as a layer over the recipe files they can be.
    """
    hints = typing.get_type_hints(kind)
    optional = {name for name, hint in hints.items() if type(None) in typing.get_args(hint) and _dataclasses_in(hint)}
    taken, place = [], 0
    while place < len(words):
        name, given, value = words[place].removeprefix("--").partition("=")
        if not words[place].startswith("--") or name.split(".")[0] not in optional:
            place += 1
            continue
        if not given and place + 1 == len(words):
            raise ConfigError(f"--{name} needs a value")
        taken.append((name, value if given else words[place + 1]))
        del words[place : place + (1 if given else 2)]
    return taken


def _nested(name: str, value: str) -> dict[str, Any]:
    """A dotted name and its YAML value as nested groups."""
    try:
        read: Any = float(value) if "e" in value.lower() else yaml.safe_load(value)  # YAML takes 1e-3 for a word
    except ValueError:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name}: {_one_line(str(error))}") from error
    for part in reversed(name.split(".")):
        read = {part: read}
    return dict(read)


def to_yaml(recipe: Any) -> str:
    """Write a recipe out in full, as the YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False)


def field_names(kind: type, prefix: str = "") -> dict[str, bool]:
    """Map the dotted name of every field of a dataclass to whether it is a group of further fields."""
    names: dict[str, bool] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        parts = _dataclasses_in(hints[field.name])
        names[name] = bool(parts)
        for part in parts:
            names |= field_names(part, name + ".")
    return names


def _dataclasses_in(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for option in typing.get_args(hint) for part in _dataclasses_in(option)]
    return []


def _leaf_names(values: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        names += _leaf_names(value, name + ".") if isinstance(value, dict) and value else [name]
    return names


class _Parser(ArgumentParser):
    """An ArgumentParser whose mistakes come as exceptions."""

    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        """Raise the mistake instead of ending the process."""
        raise ConfigError(_one_line(message))


def _instances(parser: ArgumentParser, parsed: Namespace) -> dict[str, Any]:
    return dict(vars(parser.instantiate(parsed)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())
