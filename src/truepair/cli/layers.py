"""Recipe files laid over each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from truepair.cli.recipes import find_recipe
from truepair.errors import ConfigError


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
