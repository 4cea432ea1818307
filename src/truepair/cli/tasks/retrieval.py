"""Retrieval on the command line."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from truepair.cli.arguments import read_recipe
from truepair.cli.tables import coco_table, retrieval_table
from truepair.cli.tasks.command import TaskCommand
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.evaluation import EvaluateConfig, evaluate_model
from truepair.tasks.pretraining import finetune_retrieval
from truepair.tasks.retrieval import RetrievalResult


def evaluate(model_folder: Path, words: Sequence[str]) -> RetrievalResult:
    """Measure a model on any pairs."""
    config = read_recipe(EvaluateConfig, [], words, command=f"truepair evaluate retrieval {model_folder}")
    return evaluate_model(model_folder, config)


def tables(result: RetrievalResult) -> list[Table]:
    """Figures under the known truth beside the naive ones, and those of COCO where they were asked for."""
    return [retrieval_table(result), *(coco_table(way, report) for way, report in result.coco.items())]


COMMAND = TaskCommand(PretrainRecipe, finetune_retrieval, evaluate, tables)
