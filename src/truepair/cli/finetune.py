"""``truepair finetune TASK RECIPE [RECIPE ...] [--any.field value]``."""

import shlex
import time

from truepair.cli.arguments import bundled_recipes
from truepair.cli.run_folder import RecipeCommand, say
from truepair.cli.tasks import Called, task_command, trained_tasks
from truepair.display import show
from truepair.errors import ConfigError

HELP = """usage: truepair finetune TASK RECIPE [RECIPE ...] --model.checkpoint FOLDER [--any.field value ...]

TASK is one of: {tasks}.
A RECIPE is a YAML file, or the name of a bundled one: {recipes}.
Of several, each is laid over the ones before. FOLDER is the 'model' folder of a pre-training run.
A run that was stopped goes on from its last checkpoint when the same command is given again.

'truepair finetune TASK RECIPE --help' lists every field of a recipe."""

DESCRIPTION = """A RECIPE is a YAML file, or the name of a bundled one: {recipes}.
--model.checkpoint names what it starts from: the 'model' folder of a pre-training run."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no task or no recipe is given, or it cannot be used.
    """
    recipes = {task: ", ".join(bundled_recipes(task)) for task in trained_tasks()}
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(tasks=", ".join(recipes), recipes="; ".join(": ".join(one) for one in recipes.items())))
        return
    task, *rest = words
    if task.startswith("-"):
        raise ConfigError(f"give the task first: truepair finetune TASK RECIPE; tasks are {', '.join(recipes)}")
    command = task_command(task, trained=True)
    assert command.recipe is not None
    about = DESCRIPTION.format(recipes=recipes[task])
    reader = RecipeCommand(f"truepair finetune {task}", command.recipe, about, task=task)
    reader.parser.option("report", action="store_true", help="write FOLDER/report.html at the end")
    opened = reader.open(rest)
    called = Called(shlex.join(["truepair", "finetune", *words]), opened.title) if opened.options.report else None

    actions = command.load()
    assert actions.finetune is not None
    started = time.perf_counter()
    with opened.recorded():
        result = actions.finetune(opened.recipe, opened.folder, say, called)

    say(f"done in {time.perf_counter() - started:.0f} s; model in {opened.folder / 'model'}")
    if result is not None:
        for table in actions.tables(result):
            show(table)
