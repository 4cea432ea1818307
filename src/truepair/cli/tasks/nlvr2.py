"""Statements about two images on the command line."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from truepair.cli.tasks.command import TaskCommand, recipe_of_run
from truepair.tasks.nlvr2 import Nlvr2Recipe, Nlvr2Result, evaluate_nlvr2, finetune_nlvr2


def evaluate(model_folder: Path, words: Sequence[str]) -> Nlvr2Result:
    """Judge the test statements of the model's run, or of another recipe."""
    recipe = recipe_of_run(Nlvr2Recipe, "nlvr2", model_folder, words)
    return evaluate_nlvr2(model_folder, recipe, model_folder.parent)


def tables(result: Nlvr2Result) -> list[Table]:
    """Accuracy and consistency, of the model and of who does not look."""
    table = Table(title=f"NLVR2: {result.statements:,} statements", title_justify="left")
    for name in ("judged by", "accuracy", "consistency"):
        table.add_column(name, justify="left" if name == "judged by" else "right")
    for name, metrics in result.metrics.items():
        table.add_row(name, f"{metrics.accuracy:.1%}", f"{metrics.consistency:.1%}")
    return [table]


COMMAND = TaskCommand(Nlvr2Recipe, finetune_nlvr2, evaluate, tables)
