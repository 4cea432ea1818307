"""What the commands that read a recipe have in common: how they open, and how they speak."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console

from truepair.cli.arguments import read_recipe
from truepair.cli.recipes import take_option, take_recipes
from truepair.cli.run_folder import RECIPE, keep_recipe
from truepair.errors import TruepairError

if TYPE_CHECKING:
    from truepair.training.recipe import PretrainRecipe

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

    from truepair.cli.quiet import quiet_libraries

    quiet_libraries()
    return Opening(recipe, title, Path(chosen))


def pretrain_recipe() -> "type[PretrainRecipe]":
    """The dataclass of pre-training recipes."""
    from truepair.training.recipe import PretrainRecipe

    return PretrainRecipe


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a line for people, once, and as it is: a path is neither broken nor taken for markup."""
    if is_first_process():
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
