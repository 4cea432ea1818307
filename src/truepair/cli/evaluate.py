"""``truepair evaluate [TASK] MODEL``."""

from pathlib import Path

from rich.console import Console

from truepair.errors import ConfigError

HELP = """usage: truepair evaluate [TASK] MODEL [RECIPE ...] [--any.field value ...]

MODEL is the 'model' folder of a run, TASK one of {tasks}; retrieval when absent.

retrieval: truepair evaluate MODEL [--data PAIRS] [--split SPLIT] [--judgements FILE] [--coco true]
  Prints figures under the known truth beside the naive ones, which count only each picture's own captions; by
  similarity alone, and with ITM re-ranking. Works zero-shot, too: any model on any pairs.
vqa, nlvr2: truepair evaluate TASK MODEL [RECIPE ...]
  Answers the test questions, or judges the test statements, of the recipe that the model was trained by; recipes and
  options lie over it. Writes the file for the evaluation server beside the model folder.

'truepair evaluate MODEL --help' lists every option."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no model is given.
    """
    from truepair.cli.tasks.command import TASKS, task_command

    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(tasks=", ".join(TASKS)))
        return
    words = list(arguments)
    task = words.pop(0) if words[0] in TASKS else "retrieval"
    if not words or words[0].startswith("--"):
        raise ConfigError(f"give the model first: truepair evaluate {task} runs/sample/model [--any.field value]")

    from truepair.cli.main import quiet_libraries

    command = task_command(task)
    quiet_libraries()
    for table in command.tables(command.evaluate(Path(words[0]), words[1:])):
        Console().print(table)
