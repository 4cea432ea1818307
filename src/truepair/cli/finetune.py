"""``truepair finetune TASK RECIPE [RECIPE ...] [--any.field value]``."""

import time
from typing import Any

from rich.console import Console

from truepair.cli.arguments import bundled_recipes
from truepair.cli.opening import Opening, open_recipe, say
from truepair.errors import ConfigError

HELP = """usage: truepair finetune TASK RECIPE [RECIPE ...] --model.checkpoint FOLDER [--any.field value ...]

TASK is one of: {tasks}.
A RECIPE is a YAML file, or the name of a bundled one: {recipes}.
Of several, each is laid over the ones before. FOLDER is the 'model' folder of a pre-training run.
A run that was stopped goes on from its last checkpoint when the same command is given again.

'truepair finetune TASK RECIPE --help' lists every field of a recipe."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no task or no recipe is given, or it cannot be used.
    """
    from truepair.cli.tasks.command import TASKS, task_command

    if not arguments or arguments[0] in ("-h", "--help"):
        recipes = "; ".join(f"{task}: {', '.join(bundled_recipes(task))}" for task in TASKS)
        print(HELP.format(tasks=", ".join(TASKS), recipes=recipes))
        return
    task, *options = arguments
    if task.startswith("-"):
        raise ConfigError(f"give the task first: truepair finetune TASK RECIPE; tasks are {', '.join(TASKS)}")
    command = task_command(task)
    opened: Opening[Any] = open_recipe(options, f"truepair finetune {task}", lambda: command.recipe, task=task)
    started = time.perf_counter()
    with opened.recorded():
        result = command.finetune(opened.recipe, opened.folder, say)
    say(f"done in {time.perf_counter() - started:.0f} s; model in {opened.folder / 'model'}")
    if result is not None:
        for table in command.tables(result):
            Console().print(table)
