"""Recipe files and the fields of a command line, read into dataclasses.

The names are checked first, against what the sources say (:mod:`truepair.cli.fields`), before anything costly is
imported; jsonargparse then reads the values with the types of the dataclasses.
"""

import contextlib
import copy
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from truepair.cli.fields import Field, RecipeClass, Section
from truepair.cli.options import CommandParser, Stated
from truepair.errors import ConfigError, nearest

_Recipe = TypeVar("_Recipe")

_FOLDER = Path(str(files("truepair") / "recipes"))


def read_recipe(kind: type[_Recipe], paths: Sequence[Path], overrides: Sequence[str], *, command: str) -> _Recipe:
    """Read recipe files and the overrides of their fields into a dataclass.

    Args:
        kind: the dataclass.
        paths: YAML files with any of its fields, each laid over the ones before: a field that is not stated stays as it
            is, a list is replaced whole. A file may name others to lie under it: ``base: [NAME]``.
        overrides: ``--any.field value`` words, which win over the file.
        command: the words that lead to this parser, for its help and for messages.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type, an unreadable file.
    """
    named = RecipeClass.of(kind)
    return read_fields(named, paths, CommandParser(command, named.section).read(overrides).stated, command=command)


def read_fields(kind: RecipeClass[_Recipe], paths: Sequence[Path], stated: Stated, *, command: str) -> _Recipe:
    """Read recipe files and fields of a command line into a dataclass, which is imported when all names are known.

    Args:
        kind: the dataclass.
        paths: YAML files, as :func:`read_recipe` takes them.
        stated: fields of the command line.
        command: the words that were called, for messages.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type, an unreadable file.
    """
    layers = [(str(layer), values) for path in paths for layer, values in read_layers(path)]
    known = kind.section.dotted()
    layers += [(command, nested(name, _read_word(name, word, known.get(name)))) for name, word in stated]
    for layer, values in layers:
        _check_names(values, kind.section, layer)
    return lay_recipe(kind.load(), layers, where=", ".join(map(str, paths)))


def lay_recipe(kind: type[_Recipe], layers: Iterable[tuple[str, Mapping[str, Any]]], *, where: str = "") -> _Recipe:
    """Lay groups of fields over each other, and read them into a dataclass.

    Args:
        kind: the dataclass.
        layers: where each comes from, for messages, and its fields; the lowest first.
        where: where all of it comes from, for messages.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type.
    """
    section = RecipeClass.of(kind).section
    values: dict[str, Any] = {}
    for layer, stated in layers:
        _check_names(stated, section, layer)
        values = laid_over(values, dict(stated))
    try:
        return _made(RecipeClass.of(kind), values)
    except (SystemExit, ConfigError):
        raise
    except Exception as error:  # jsonargparse raises many kinds; each is a mistake in the recipe or the command
        reason = next(_faults(values, section), "") or " ".join(str(error).split())
        raise ConfigError((f"{where}: " if where else "") + reason) from error


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


def nested(name: str, value: Any) -> dict[str, Any]:
    """A dotted name and its value as nested groups."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def to_yaml(recipe: Any) -> str:
    """Write a recipe out in full, as the YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False)


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


def _read_word(name: str, word: str, field: Field | None) -> Any:
    """The value of an option: text where the field may be text, else YAML.

    Raises:
        ConfigError: it is not valid YAML.
    """
    if field is not None and field.text:
        return None if word == "null" and field.nullable else word
    if "e" in word.lower():  # YAML takes 1e-3 for a word
        with contextlib.suppress(ValueError):
            return float(word)
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--{name}: {reason}") from error


def _check_names(values: Mapping[str, Any], section: Section, where: str) -> None:
    """Check every name that is stated, those in items of lists as well.

    Raises:
        ConfigError: there is no field of a name, or an item is none of the classes that it may be.
    """
    _check_group(values, section.dotted(), where)


def _check_group(values: Mapping[str, Any], known: Mapping[str, Field], where: str, prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        field = known.get(name)
        if field is None:
            leaf = _first_leaf(name, value)
            raise ConfigError(f"{where}: there is no field {leaf}{nearest(leaf, known)}")
        if field.sections and isinstance(value, Mapping) and not field.free:
            _check_group(value, known, where, f"{name}.")
        elif field.items and isinstance(value, list):
            for number, item in enumerate(value, start=1):
                if isinstance(item, Mapping):
                    _check_item(item, field.items, f"{where}: item {number} of {name}")


def _check_item(item: Mapping[str, Any], sections: Sequence[Section], where: str) -> None:
    """Check an item of a list against the class that its field of fixed choices, such as ``detector``, names.

    Raises:
        ConfigError: it names no class, or has fields that the class has not.
    """
    admitting = [section for section in sections if section.admits(item)]
    choosers = [name for name in sections[0].fields if all(_choices(section, name) for section in sections)]
    if len(sections) > 1:
        for chooser in choosers:
            choices = [str(choice) for section in sections for choice in _choices(section, chooser)]
            if chooser not in item:
                raise ConfigError(f"{where}: it has no {chooser}; give one of {', '.join(choices)}")
            if str(item[chooser]) not in choices:
                word = str(item[chooser])
                hint = nearest(word, choices) or f"; give one of {', '.join(choices)}"
                raise ConfigError(f"{where}: there is no {chooser} '{word}'{hint}")
    if len(admitting) == 1 or len(sections) == 1:
        _check_names(item, (admitting or list(sections))[0], where)
        return
    known = {name for section in admitting or sections for name in section.fields}
    for name in item:
        if name not in known:
            raise ConfigError(f"{where}: there is no field {name}{nearest(name, known)}")


def _choices(section: Section, name: str) -> tuple[Any, ...]:
    return section.fields[name].choices if name in section.fields else ()


def _made(kind: RecipeClass[_Recipe], values: Mapping[str, Any]) -> _Recipe:
    """A dataclass of its fields and the defaults of the others, as jsonargparse reads them."""
    parser = _parser_of(kind)
    # A copy: jsonargparse writes into lists of dataclasses, which belong to the caller.
    parsed = parser.parse_object(copy.deepcopy(dict(values)), defaults=True) if values else parser.get_defaults()
    return kind.load()(**vars(parser.instantiate(parsed)))


def _faults(values: Mapping[str, Any], section: Section, prefix: str = "") -> Iterator[str]:
    """What is wrong with values that jsonargparse refuses, field by field; its own text tells it in many lines."""
    hints = typing.get_type_hints(section.kind.load())
    for name, value in values.items():
        field = section.fields.get(name)
        if field is None:
            yield f"{prefix}{name}: {section.kind.name} has no such field{nearest(name, section.fields)}"
        elif isinstance(value, Mapping) and field.sections:
            yield from _faults_in(value, field.sections, f"{prefix}{name}.")
        elif isinstance(value, list) and field.items and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, start=1):
                if isinstance(item, Mapping):
                    yield from _faults_in(item, field.items, f"item {number} of {prefix}{name}: ")
        elif not _is_a(value, hints[name]):
            only = field.choices and not field.text
            kind = field.type.replace(" | None", "")
            wanted = f"none of {', '.join(map(repr, field.choices))}" if only else f"no {kind}"
            yield f"{prefix}{name}: {value} is {wanted}"
    for name, field in section.fields.items():
        if field.default is None and name not in values:
            yield f"{prefix}{name} is missing; give it"
    try:
        _made(section.kind, values)
    except ConfigError as error:  # the class itself refuses its values; it names its section, but no item
        yield f"{prefix if prefix.endswith(': ') else ''}{error}"
    except Exception:  # one of the above
        return


def _faults_in(values: Mapping[str, Any], sections: Sequence[Section], prefix: str) -> Iterator[str]:
    """What is wrong with values that may be one of several classes; nothing if one of them takes them."""
    admitting = [section for section in sections if section.admits(values)]
    found = [next(_faults(values, section, prefix), "") for section in admitting or sections]
    if all(found):
        yield found[0]


def _is_a(value: Any, hint: Any) -> bool:
    """Whether jsonargparse takes a value for one of a type."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": copy.deepcopy(value)})
    except Exception:  # it raises many kinds
        return False
    return True


@cache
def _parser_of(kind: RecipeClass[Any]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(kind.load(), None)
    return parser


def _first_leaf(name: str, value: Any) -> str:
    """The dotted name of the first value in a group."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    return name


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
