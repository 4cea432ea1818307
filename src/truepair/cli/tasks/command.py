"""The recipe that a trained model is evaluated by: that of its run, unless others are laid over it."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from truepair.cli.arguments import find_recipe, leading_words, read_recipe
from truepair.cli.opening import RECIPE
from truepair.errors import ConfigError, nearest

# Task: module with ``COMMAND``. It is imported only when its task is asked for.
TASKS = {
    "retrieval": "truepair.cli.tasks.retrieval",
    "vqa": "truepair.cli.tasks.vqa",
    "nlvr2": "truepair.cli.tasks.nlvr2",
}


@dataclass(frozen=True)
class TaskCommand:
    """A task.

    Attributes:
        recipe: dataclass of its fine-tuning recipes.
        finetune: (recipe, run folder, say) -> result of the test data, or None.
        evaluate: (model folder, words after it on the command line) -> result.
        tables: the result for the terminal.
    """

    recipe: type
    finetune: Callable[[Any, Path, Callable[[str], None]], Any]
    evaluate: Callable[[Path, Sequence[str]], Any]
    tables: Callable[[Any], list[Table]]


def task_command(name: str) -> TaskCommand:
    """The command of a task.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}'{nearest(name, TASKS)}; give {', '.join(TASKS)}")
    command: TaskCommand = importlib.import_module(TASKS[name]).COMMAND
    return command


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
