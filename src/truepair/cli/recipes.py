"""Finding recipes, and the options a command has beside them."""

import itertools
from importlib.resources import files
from pathlib import Path

from truepair.errors import ConfigError
from truepair.spelling import nearest

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
