"""The recipe that a run folder keeps, and what may change between a run and its resumption."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from truepair.cli.arguments import to_yaml
from truepair.errors import ConfigError

RECIPE = "recipe.yaml"

# How long, how fast, where and how closely watched: a run may go on with other values.
_FREE = ("loop.", "optimizer.", "evaluation.", "data.sources", "data.max_bad_fraction", "model.cache_folder")
_FREE_IN_PARTS = tuple(f"assignment.{name}" for name in _FREE)
# ... but a finished run has no more use for these, and its result is that of the old ones.
_SETTLED = ("optimizer.", "assignment.optimizer.")


def keep_recipe(recipe: Any, folder: Path) -> bytes | None:
    """Write the recipe into a run folder.

    Returns:
        The recipe that was there before, as it was written; None if there was none.

    Raises:
        ConfigError: the folder cannot be written, or holds a run of other settings, which would go on as one of these,
            or pass for one.
    """
    file = folder / RECIPE
    try:
        before = file.read_bytes() if file.is_file() else None
        if before is not None:
            _require_same_run(folder, before, recipe)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(to_yaml(recipe), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be used ({error.strerror}); give another one") from error
    return before


def _require_same_run(folder: Path, before: bytes, recipe: Any) -> None:
    """Compare what both recipes state; fields that only one has are of another version."""
    finished = (folder / "model").exists()
    if not finished and not any((folder / "checkpoints").glob("step-*")):
        return
    then, now = (dict(_leaves(yaml.safe_load(text))) for text in (before, to_yaml(recipe)))
    for name in (name for name in now if name in then):
        free = name.startswith((*_FREE, *_FREE_IN_PARTS)) and not (finished and name.startswith(_SETTLED))
        if then[name] != now[name] and not free:
            raise ConfigError(
                f"{folder} holds a run with {name} {then[name]}, now it is {now[name]}; give another --run-folder, or "
                "the old setting"
            )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a list is one value."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
