"""The recipe that a trained model is evaluated by: that of its run, unless others are laid over it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from truepair.cli.arguments import read_recipe
from truepair.cli.recipes import find_recipe, leading_words
from truepair.cli.run_folder import RECIPE
from truepair.errors import ConfigError

Recipe = TypeVar("Recipe")


def recipe_of_run(kind: type[Recipe], task: str, model_folder: Path, words: Sequence[str]) -> Recipe:
    """Read ``recipe.yaml`` beside a model folder, under the recipes and options of the command line.

    Args:
        kind: dataclass of the recipe.
        task: name of the task.
        model_folder: the ``model`` folder of a run.
        words: recipes, then options.

    Raises:
        ConfigError: there is no recipe beside the model and none is named, or one cannot be used.
    """
    options = list(words)
    paths = [find_recipe(name, task) for name in leading_words(options)]
    own = model_folder.parent / RECIPE
    if own.is_file():
        paths.insert(0, own)
    if not paths:
        raise ConfigError(f"there is no {own}; name a recipe: truepair evaluate {task} {model_folder} RECIPE")
    return read_recipe(kind, paths, options, command=f"truepair evaluate {task} {model_folder}")
