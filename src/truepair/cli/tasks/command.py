"""What ``truepair finetune`` and ``truepair evaluate`` know of a task."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from truepair.errors import ConfigError
from truepair.spelling import nearest

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
