"""Evaluating a trained model on any pairs."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from truepair.data.preprocessing import Preprocessing
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.evaluation.protocol import RetrievalProtocol
from truepair.models.albef_checkpoint import load_albef
from truepair.tasks.images import ImageSource
from truepair.tasks.retrieval import RetrievalResult, RetrievalTask
from truepair.training.build import build_image_transform, build_tables
from truepair.training.recipe import DataConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, and how.

    Attributes:
        data: a file, a folder or a hub name; "sample" is the bundled sample; or the fields of ``SourceConfig``.
        split: split that is measured.
        validation_split: split on which the weights of similarity and ITM are chosen; empty, or absent in the data, for
            not combining them.
        min_group_size: keep only rows whose group has this many rows over all splits; 0 for all.
        evaluation: how the figures are measured.
        output: JSON file for all figures with their confidence intervals.
    """

    data: str | SourceConfig = "sample"
    split: str = "test"
    validation_split: str = "val"
    min_group_size: int = 0
    evaluation: RetrievalProtocol = field(default_factory=RetrievalProtocol)
    output: str | None = None


def evaluate_model(model_folder: Path, config: EvaluateConfig) -> RetrievalResult:
    """Measure a model; any image that cannot be read is an error, since a substitute would make the figures wrong.

    Raises:
        CheckpointError: the folder holds no truepair model.
        DataError: the pairs cannot be read, or have no such split.
    """
    preprocessing = Preprocessing.load(model_folder)
    model = load_albef(model_folder)
    transform = build_image_transform(preprocessing.transform, model, train=False)
    collator = preprocessing.collator()
    tables = build_tables(
        DataConfig(
            sources=[config.data],
            train_split=config.split,
            validation_split=config.validation_split,
            test_split="",
            min_group_size=config.min_group_size,
        )
    )

    def task(table: PairTable) -> RetrievalTask:
        """Retrieval on a split."""
        size = config.evaluation.batch_size
        return RetrievalTask(
            collator, ImageSource(table, collator, transform=transform, batch_size=size), config.evaluation
        )

    combination = None if tables.validation is None else task(tables.validation).choose_combination(model)
    result = task(tables.train).evaluate(model, combination)
    if config.output is not None:
        Path(config.output).write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
    return result
