"""Recipes and command-line overrides, read into typed dataclasses by jsonargparse."""

import contextlib
import copy
import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from truepair.errors import ConfigError, nearest

_KEYS = re.compile(r'(?:Parser key "[^"]+": ?)+')

_UNION = re.compile(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: ")

_OTHER_KIND = re.compile(r"- Expected a <class '(?:NoneType|float|int|bool|str)'>\.?(?= (?:- |Given value type)|$) ?")

_GIVEN = re.compile(r" ?Given value type: .*$")

_CHOICE = re.compile(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)")

_KIND = re.compile(r"Expected a <class '(?:\w+\.)*(\w+)'>\. Got value: (.*)")

_OPTION = re.compile(r"Option '([^']*)' is not accepted")


def plain_complaint(text: str) -> str:
    """Shorten what jsonargparse says of a value to the field and what is wrong with it.

    Of a field that may also be absent, or a plain number, it lists why each kind does not fit; only the reason for
    the kind that was meant is kept.

    Args:
        text: its message, of any number of lines.

    Returns:
        One line.
    """
    line = " ".join(text.split())
    union = _UNION.search(line) is not None
    line = _UNION.sub("", line)
    if union:
        shorter = _GIVEN.sub("", _OTHER_KIND.sub("", line)).replace(": - ", ": ").removeprefix("- ").strip()
        line = shorter if shorter.rstrip(": ") else line
    line = _KEYS.sub(
        lambda keys: ".".join(re.findall(r'"([^"]+)"', keys[0])) + ": ", line.replace(": - Parser", ": Parser")
    )
    line = _CHOICE.sub(lambda found: f"{found[2]} is none of {found[1]}", line)
    line = _KIND.sub(lambda found: f"{found[2]} is no {found[1]}", line)
    return _OPTION.sub(lambda found: f"there is no field '{found[1]}'", line)


_FOLDER = Path(str(files("truepair") / "recipes"))


def bundled_recipes(task: str = "") -> list[str]:
    """Names of the recipes that come with the package: of pre-training, or of fine-tuning on a task."""
    return sorted(path.stem for path in (_FOLDER / task).glob("*.yaml"))


def find_recipe(name: str, task: str = "") -> Path:
    """Return the path of a recipe, given as a file or as the name of a bundled one.

    Args:
        name: file or name.
        task: the task whose bundled recipes are meant; those of pre-training when empty.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    bundled = _FOLDER / task / f"{path.stem}.yaml"
    if path.suffix in ("", ".yaml") and path.parent.name in ("", "recipes", task) and bundled.is_file():
        return bundled
    names = bundled_recipes(task)
    raise ConfigError(f"there is no recipe {name}{nearest(path.stem, names)}; give a file or one of {', '.join(names)}")


def take_recipes(arguments: list[str], command: str, task: str = "") -> tuple[list[str], list[Path]]:
    """Take the leading words out of the arguments: names of recipes, and their paths.

    Raises:
        ConfigError: there are none, or one cannot be found.
    """
    names = leading_words(arguments)
    if not names:
        raise ConfigError(f"give the recipe first: {command} RECIPE [--any.field value]")
    return names, [find_recipe(name, task) for name in names]


def leading_words(arguments: list[str]) -> list[str]:
    """Take the words before the first option out of the arguments."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    del arguments[: len(words)]
    return words


def take_option(arguments: list[str], name: str) -> str | None:
    """Take ``--name value`` or ``--name=value`` out of the arguments, and return the value.

    Raises:
        ConfigError: the option stands without a value.
    """
    for place, word in enumerate(arguments):
        if word.startswith(f"--{name}="):
            del arguments[place]
            return word.split("=", 1)[1]
        if word == f"--{name}":
            if place + 1 == len(arguments) or arguments[place + 1].startswith("--"):
                raise ConfigError(f"--{name} needs a value")
            value = arguments[place + 1]
            del arguments[place : place + 2]
            return value
    return None


def take_flag(arguments: list[str], name: str) -> bool:
    """Take ``--name`` out of the arguments; whether it was there."""
    if f"--{name}" in arguments:
        arguments.remove(f"--{name}")
        return True
    return False


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield what lies under a recipe file, the lowest first, and then the file itself.

    Args:
        path: YAML file. Its key ``base`` names recipes that lie under it: bundled ones, or files beside it.
        above: the files that led here.

    Raises:
        ConfigError: a file cannot be read, or lies under itself.
    """
    if path in above:
        raise ConfigError(f"{path} lies under itself: its 'base' leads back to it; drop it there")
    values = _read_yaml(path)
    bases = values.pop("base", [])
    for name in [bases] if isinstance(bases, str) else bases:
        beside = path.parent / name
        yield from read_layers(beside if beside.is_file() else find_recipe(str(name)), (*above, path))
    yield path, values


def laid_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """The fields of both, those of the upper where both state one; groups are merged, lists are not."""
    merged = dict(lower)
    for name, value in upper.items():
        below = merged.get(name)
        merged[name] = laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold fields and values, not a {type(values).__name__}")
    return values


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
    if "--help" in overrides or "-h" in overrides:
        parser = _parser_of(typing.cast(Hashable, kind))
        parser.prog = command
        parser.parse_args(["--help"])
    hints = field_hints(kind)
    layers = [(str(layer), stated) for path in paths for layer, stated in read_layers(path)]
    for name, word in _options(overrides, command):
        _check_name(name, hints, f"{command}: there is no option --")
        layers.append((command, nested(name, _read_word(name, word, hints.get(name, Any)))))
    return lay_recipe(kind, layers, where=", ".join(map(str, paths)))


def lay_recipe(kind: type[Recipe], layers: Iterable[tuple[str, Mapping[str, Any]]], *, where: str = "") -> Recipe:
    """Lay groups of fields over each other, and read them into a dataclass.

    Args:
        kind: the dataclass.
        layers: where each comes from, for messages, and its fields; the lowest first.
        where: where all of it comes from, for messages.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type.
    """
    hints = field_hints(kind)
    values: dict[str, Any] = {}
    for layer, stated in layers:
        for name in _leaf_names(stated):
            _check_name(name, hints, f"{layer}: there is no field ")
        values = laid_over(values, dict(stated))
    parser = _parser_of(typing.cast(Hashable, kind))
    try:
        # A copy: jsonargparse writes into lists of dataclasses, which belong to the caller.
        parsed = parser.parse_object(copy.deepcopy(values), defaults=True) if values else parser.get_defaults()
        return kind(**_instances(parser, parsed))
    except (SystemExit, ConfigError):
        raise
    except Exception as error:  # jsonargparse raises many kinds; each is a mistake in the recipe or the command
        raise ConfigError((f"{where}: " if where else "") + plain_complaint(str(error))) from error


@cache
def _parser_of(kind: Hashable) -> "_Parser":
    parser = _Parser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(typing.cast(type, kind), None)
    return parser


def _options(words: Sequence[str], command: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of every ``--name value`` and ``--name=value``."""
    rest = iter(words)
    for word in rest:
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise ConfigError(f"{command}: '{word}' stands alone; options are --any.field value")
        if not given:
            value = next(rest, "--")
            if value.startswith("--"):
                raise ConfigError(f"{command}: --{name} needs a value")
        yield name, value


def _read_word(name: str, word: str, hint: Any) -> Any:
    """The value of an option: text where the field is text, else YAML.

    Raises:
        ConfigError: it is not valid YAML.
    """
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if str in kinds:
        return None if word == "null" and type(None) in kinds else word
    if "e" in word.lower():  # YAML takes 1e-3 for a word
        with contextlib.suppress(ValueError):
            return float(word)
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name}: {_one_line(str(error))}") from error


def nested(name: str, value: Any) -> dict[str, Any]:
    """A dotted name and its value as nested groups."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def _check_name(name: str, hints: dict[str, Any], complaint: str) -> None:
    """Raise unless the name is a field, or lies inside a field that holds free keys."""
    parents = {name[:end] for end, letter in enumerate(name) if letter == "."}
    if name not in hints and not any(parent in hints and not _dataclasses_in(hints[parent]) for parent in parents):
        raise ConfigError(f"{complaint}{name}{nearest(name, hints)}")


def to_yaml(recipe: Any) -> str:
    """Write a recipe out in full, as the YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False)


def field_hints(kind: type, prefix: str = "") -> dict[str, Any]:
    """Map the dotted name of every field of a dataclass, groups included, to its type."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        found[name] = hints[field.name]
        for part in _dataclasses_in(hints[field.name]):
            found |= field_hints(part, name + ".")
    return found


def _dataclasses_in(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for option in typing.get_args(hint) for part in _dataclasses_in(option)]
    return []


def _leaf_names(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        names += _leaf_names(value, name + ".") if isinstance(value, dict) and value else [name]
    return names


class _Parser(ArgumentParser):
    """An ArgumentParser whose mistakes come as exceptions."""

    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        """Raise the mistake instead of ending the process."""
        raise ValueError(message)


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
