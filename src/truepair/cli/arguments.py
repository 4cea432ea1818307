"""Recipe files and the fields of a command line, read into dataclasses.

All names are checked before the dataclass is imported, which takes seconds.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from truepair.cli.fields import Field, RecipeClass
from truepair.cli.options import CommandParser, Stated
from truepair.cli.values import check_names, listed, make
from truepair.errors import ConfigError, nearest, shortened

_Recipe = TypeVar("_Recipe")

_MOST_BYTES = 1 << 18  # of a recipe, which takes seconds to read; the longest that is bundled has a few thousand

_MOST_VALUES = 20_000  # of a recipe, with what its aliases stand for written out

_MOST_LAYERS = 100  # recipes that lie under one

_FOLDER = Path(str(files("truepair") / "recipes"))

# Fields of one group that stand instead of each other: what states one of them does away with the other below it.
_INSTEAD = {"sources": "train", "train": "sources"}


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


def read_fields(
    kind: RecipeClass[_Recipe],
    paths: Sequence[Path],
    stated: Stated,
    *,
    command: str,
    under: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> _Recipe:
    """Read recipe files and fields of a command line into a dataclass, which is imported when all names are known.

    Args:
        kind: the dataclass.
        paths: YAML files, as :func:`read_recipe` takes them.
        stated: fields of the command line.
        command: the words that were called, for messages.
        under: where it comes from, and fields that lie under the files; the lowest first.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type, an unreadable file.
    """
    layers = [*under, *((str(layer), values) for path in paths for layer, values in read_layers(path))]
    known = kind.section.dotted()
    typed: dict[str, Any] = {}
    for name, word in stated:
        typed = laid_over(typed, nested(name, _read_word(name, word, known.get(name))))
    for layer, values in [*layers, (command, typed)]:
        check_names(listed(values, kind.section), kind.section, layer)
    return lay_recipe(kind.load(), [*layers, ("", typed)])  # what is wrong with a typed value begins with its name


def lay_recipe(kind: type[_Recipe], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> _Recipe:
    """Lay groups of fields over each other, and read them into a dataclass.

    Args:
        kind: the dataclass.
        layers: where each comes from, for messages, and its fields; the lowest first.

    Raises:
        ConfigError: an unknown field (the nearest is named), a value of the wrong type.
    """
    section = RecipeClass.of(kind).section
    values: dict[str, Any] = {}
    for layer, stated in layers:
        whole = listed(stated, section)
        check_names(whole, section, layer)
        values = laid_over(_making_way(values, whole), whole)
    return make(
        RecipeClass.of(kind),
        values,
        lambda name: next((one for one, own in reversed(layers) if _states(own, name)), ""),
    )


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield what lies under a recipe file, the lowest first, and then the file itself.

    Args:
        path: YAML file. Its key ``base`` names recipes that lie under it: bundled ones, or files beside it.
        above: the files that led here.

    Raises:
        ConfigError: a file cannot be read, or lies under itself.
    """
    count = itertools.count()
    for layer in _layers(path, above):
        if next(count) >= _MOST_LAYERS:
            raise ConfigError(f"{path} has more than {_MOST_LAYERS} recipes under it; name fewer in 'base'")
        yield layer


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    if path in above:
        raise ConfigError(f"{path} lies under itself: its 'base' leads back to it; drop it there")
    values = _read_yaml(path)
    stated = values.pop("base", [])
    bases = [stated] if isinstance(stated, str) else stated
    if not isinstance(bases, list) or not all(isinstance(name, str) for name in bases):
        raise ConfigError(f"{path}: base is {shortened(stated)}; give the name of a recipe, or a list of names")
    for name in bases:
        beside = path.parent / name
        yield from _layers(beside if beside.is_file() else find_recipe(name), (*above, path))
    yield path, values


def laid_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """The fields of both, those of the upper where both state one; groups are merged, lists are not."""
    merged = dict(lower)
    for name, value in upper.items():
        below = merged.get(name)
        merged[name] = laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _making_way(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """The lower fields without those which a field of the upper ones stands instead of."""
    kept = {name: value for name, value in lower.items() if upper.get(_INSTEAD.get(name, "")) is None}
    return {
        name: _making_way(value, upper[name])
        if isinstance(value, Mapping) and isinstance(upper.get(name), Mapping)
        else value
        for name, value in kept.items()
    }


def _states(values: Mapping[str, Any], name: str) -> bool:
    """Whether groups of fields state one by its dotted name, or a group around it as a whole."""
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping):
            return True
        if part not in found:
            return False
        found = found[part]
    return True


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


def from_yaml(text: str) -> Any:
    """Read YAML of some length, in which each key is a text and stands once.

    An alias stands for what it names, so that a few lines can mean more than any memory holds: what is meant is counted
    before it is made.

    Raises:
        ConfigError: it is no YAML, or none of the kind.
    """
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"it has more than {_MOST_BYTES:,} characters; settings need no more")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError("it is nested too deeply; write fewer brackets") from None
    except Exception as error:  # of its own kind, and what int, float and datetime raise at values that look like one
        raise ConfigError(shortened(error)) from error


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node of YAML means, with its aliases written out.

    Args:
        node: the node.
        counts: identity of each node -> its own count; 0 while it is being counted.

    Raises:
        ConfigError: too many, a node that holds itself, a key that is no text or that stands twice.
    """
    line = node.start_mark.line + 1
    if id(node) in counts:
        if not counts[id(node)]:
            raise ConfigError(f"line {line} holds itself by an alias; write out what is meant")
        return counts[id(node)]
    counts[id(node)] = 0
    total = 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        total += sum(_count(value, counts) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(value, counts) for value in node.value)
    if total > _MOST_VALUES:
        raise ConfigError(f"line {line} holds more than {_MOST_VALUES:,} values, aliases written out; give fewer")
    counts[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse keys that are no text, and keys that stand twice: YAML would silently take the last."""
    seen = set[str]()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            name = f" {shortened(key.value)}" if isinstance(key, yaml.ScalarNode) else ""
            raise ConfigError(f"the key{name} in line {line} is no text; put it in quotes, if it is a name")
        if key.value in seen:
            raise ConfigError(f"the key {shortened(key.value)} stands twice, again in line {line}; leave one")
        seen.add(key.value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        values = from_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold fields and values, not a {type(values).__name__}")
    return values


def _read_word(name: str, word: str, field: Field | None) -> Any:
    """The value of an option: text where the field, or an item of it, may be text, else YAML.

    Raises:
        ConfigError: it is not valid YAML.
    """
    if field is not None and word == "null" and field.nullable:
        return None
    plain = word[:1] not in ("[", "{")
    if field is not None and ((field.text and (plain or not field.sections)) or (field.items and plain)):
        return word
    if "e" in word.lower():  # YAML takes 1e-3 for a word
        with contextlib.suppress(ValueError):
            return float(word)
    try:
        return from_yaml(word)
    except ConfigError as error:
        raise ConfigError(f"--{name}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
