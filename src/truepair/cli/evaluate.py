"""``truepair evaluate [TASK] MODEL``."""

from collections.abc import Sequence
from pathlib import Path

from truepair.cli.arguments import find_recipe, read_fields
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import RECIPE, quiet_libraries, recipe_of_run, section_of_run
from truepair.cli.tasks import TASKS, task_command
from truepair.display import show
from truepair.errors import ConfigError

HELP = """usage: truepair evaluate [TASK] MODEL [RECIPE ...] [--any.field value ...]

TASK is one of {tasks}; retrieval when absent.

retrieval: truepair evaluate MODEL [--data PAIRS] [--split SPLIT] [--judgements FILE] [--coco true]
  MODEL is a run, a folder of a model, a checkpoint file of another program ('truepair convert --help'), or a name on
  the hub: any model that compares images and texts. Without --data
  the test split of its run is measured. Prints two protocols beside each other: any true match counts; and the usual
  protocol of papers, where nothing but a picture's own captions does. By similarity alone, and with ITM re-ranking.
zero-shot: truepair evaluate zero-shot MODEL --data FOLDER|CSV|NAME [--templates NAME|FILE] [--classes FILE]
  Classifies labelled images (a folder for each class, a label column, or a data set of the hub) by the nearest prompt.
the others: truepair evaluate TASK MODEL [RECIPE ...]
  MODEL is a run, or its 'model' folder.
  Answers the test questions, or judges the test statements, of the recipe that the model was trained by; recipes and
  options lie over it. Writes the file for the evaluation server beside the model folder, or into --output FOLDER.
  captioning captions pictures that have no captions as well: --data.test FOLDER of photos, or a list of files.

'truepair evaluate MODEL --help' lists every option."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no model is given, or what it is measured by cannot be used.
    """
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(tasks=", ".join(TASKS)))
        return
    if words[0].replace("_", "-") in TASKS:
        task_command(words[0])  # a task spelled in another way is no model
    task, *rest = words if words[0] in TASKS else ("retrieval", *words)
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"give the model first: truepair evaluate {task} runs/sample/model [--any.field value]")
    command, prog = task_command(task), f"truepair evaluate {task} {rest[0]}"
    parser = CommandParser(prog, command.evaluation.section, usage="[options]")
    by_recipe = command.evaluation == command.recipe
    if by_recipe:
        parser.add_argument("recipes", metavar="RECIPE", nargs="*", help="laid over the recipe of the model's run")
        parser.option("output", metavar="FOLDER", help="where its files go; by default beside the model folder")
    call = parser.read(rest[1:])
    paths = _recipes(task, rest[0], call.recipes) if by_recipe else []
    of_run = task == "retrieval" and not any(name.split(".")[0] == "data" for name, _ in call.stated)
    under = section_of_run(rest[0], "evaluation") if of_run else []
    settings = read_fields(command.evaluation, paths, call.stated, command=prog, under=under)

    quiet_libraries()
    actions = command.load()
    output = Path(call.output) if by_recipe and call.output is not None else None
    result = actions.evaluate(rest[0], settings, output)

    for table in actions.tables(result):
        show(table)


def _recipes(task: str, model: str, names: Sequence[str]) -> list[Path]:
    """The recipe of the run that a model is of, and the recipes that are named to lie over it.

    Raises:
        ConfigError: there is none beside the model and none is named, or one cannot be found.
    """
    own = recipe_of_run(model)
    paths = [own] if own is not None else []
    paths += [find_recipe(name, task) for name in names]
    if not paths:
        raise ConfigError(f"there is no {RECIPE} beside {model}; name one: truepair evaluate {task} {model} RECIPE")
    return paths
