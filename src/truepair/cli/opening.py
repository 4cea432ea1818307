"""What the commands that read a recipe have in common: how they open, what a run folder keeps, and how they speak."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml
from rich.console import Console

from truepair.cli.arguments import read_recipe, take_option, take_recipes, to_yaml
from truepair.errors import ConfigError, TruepairError

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

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


Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Opening(Generic[Recipe]):
    """A recipe and where its results go.

    Attributes:
        recipe: with the fields of the command line.
        title: command and recipes, as they were called.
        folder: the run folder.
    """

    recipe: Recipe
    title: str
    folder: Path

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the recipe in the run folder; if it is refused there, the one before is put back.

        Raises:
            ConfigError: the folder cannot be written, or holds a run of other settings.
        """
        if not is_first_process():
            yield
            return
        before = keep_recipe(self.recipe, self.folder)
        try:
            yield
        except TruepairError:
            if before is not None:
                (self.folder / RECIPE).write_bytes(before)
            raise


def open_recipe(
    options: list[str], command: str, kind: Callable[[], type[Recipe]], *, task: str = "", folder: str = ""
) -> Opening[Recipe]:
    """Read recipes and fields from the words of a command, and keep other libraries quiet.

    Args:
        options: words after the command, without options that are no fields.
        command: the words before, for messages.
        kind: gives the dataclass of the recipe; called when the recipes are found, since its import takes seconds.
        task: whose bundled recipes are meant; those of pre-training when empty.
        folder: the run folder where no option names one; ``runs/`` and the names of task and recipes when empty.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    names, paths = take_recipes(options, command, task)
    usual = folder or "runs/" + "-".join([*filter(None, [task]), *(path.stem for path in paths)])
    chosen = take_option(options, "run-folder") or usual
    title = f"{command} {' '.join(names)}"
    recipe = read_recipe(kind(), paths, options, command=title)

    from truepair.cli.main import quiet_libraries

    quiet_libraries()
    return Opening(recipe, title, Path(chosen))


def pretrain_recipe() -> "type[PretrainRecipe]":
    """The dataclass of pre-training recipes."""
    from truepair.methods.recipe import PretrainRecipe

    return PretrainRecipe


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a line for people, once, and as it is: a path is neither broken nor taken for markup."""
    if is_first_process():
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
