"""``truepair finetune TASK RECIPE [RECIPE ...] [--any.field value]``."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from truepair.cli.arguments import read_recipe, to_yaml
from truepair.cli.recipes import bundled_recipes, take_option, take_recipes
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
    names, paths = take_recipes(options, f"truepair finetune {task}", task)
    chosen = take_option(options, "run-folder")
    recipe: Any = read_recipe(command.recipe, paths, options, command=f"truepair finetune {task} {' '.join(names)}")
    folder = Path(chosen) if chosen is not None else Path("runs") / "-".join([task, *(path.stem for path in paths)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")

    from truepair.cli.quiet import quiet_libraries

    quiet_libraries()
    console = Console(stderr=True)
    started = time.perf_counter()
    result = command.finetune(recipe, folder, console.print)
    console.print(f"done in {time.perf_counter() - started:.0f} s; model in {folder / 'model'}")
    if result is not None:
        for table in command.tables(result):
            Console().print(table)
