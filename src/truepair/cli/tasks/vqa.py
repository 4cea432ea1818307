"""Questions about images on the command line."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from truepair.cli.tasks.command import TaskCommand, recipe_of_run
from truepair.tasks.vqa import VqaRecipe, VqaResult, evaluate_vqa, finetune_vqa


def evaluate(model_folder: Path, words: Sequence[str]) -> VqaResult:
    """Answer the test questions of the model's run, or of another recipe."""
    recipe = recipe_of_run(VqaRecipe, "vqa", model_folder, words)
    return evaluate_vqa(model_folder, recipe, model_folder.parent)


def tables(result: VqaResult) -> list[Table]:
    """Accuracy over all questions and by kind, of the model and of who does not look."""
    table = Table(title=f"VQA accuracy: {result.questions:,} questions", title_justify="left")
    table.add_column("questions")
    for name in result.accuracies:
        table.add_column(name, justify="right", no_wrap=True)
    columns = [
        {"all": one.overall, **one.by_answer_type, **(one.by_question_type if len(one.by_question_type) < 20 else {})}
        for one in result.accuracies.values()
    ]
    for kind in columns[0] if columns else ():
        table.add_row(kind, *(f"{column[kind]:.1%}" for column in columns))
    return [table]


COMMAND = TaskCommand(VqaRecipe, finetune_vqa, evaluate, tables)
