"""Evaluating a trained model on any pairs."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import PartialState

from truepair.data.judgements import JudgedCaptions, judged_captions, read_judgements
from truepair.data.preprocessing import Preprocessing
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.evaluation.coco import load_coco_truths
from truepair.evaluation.protocol import RetrievalProtocol
from truepair.models.albef_checkpoint import load_albef
from truepair.models.image_transform import image_transform
from truepair.tasks.coco_reports import coco_reports
from truepair.tasks.images import ImageSource
from truepair.tasks.retrieval import RetrievalResult, RetrievalTask
from truepair.training.build import build_tables
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
        judgements: JSON Lines file of judged pairs; crossed matches count beside each picture's own captions.
        coco: also report COCO 1K and 5K, CxC and ECCV Caption; the split must be the Karpathy test split of COCO (needs
            truepair[eccv]).
        evaluation: how the figures are measured.
        output: JSON file for all figures with their confidence intervals.
    """

    data: str | SourceConfig = "sample"
    split: str = "test"
    validation_split: str = "val"
    min_group_size: int = 0
    judgements: str | None = None
    coco: bool = False
    evaluation: RetrievalProtocol = field(default_factory=RetrievalProtocol)
    output: str | None = None


def evaluate_model(model_folder: Path, config: EvaluateConfig) -> RetrievalResult:
    """Measure a model; any image that cannot be read is an error, since a substitute would make the figures wrong.

    Raises:
        CheckpointError: the folder holds no truepair model.
        DataError: the pairs cannot be read, or have no such split.
        ConfigError: figures that need a package that is not installed.
    """
    if config.output is not None:
        _make_room(Path(config.output))
    preprocessing = Preprocessing.load(model_folder)
    model = load_albef(model_folder).to(PartialState().device)
    transform = image_transform(preprocessing.transform, model.image_encoder, train=False)
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
    truths = load_coco_truths() if config.coco else None

    def task(table: PairTable, judged: JudgedCaptions | None = None) -> RetrievalTask:
        """Retrieval on a split."""
        size = config.evaluation.batch_size
        images = ImageSource(table, collator, transform=transform, batch_size=size)
        return RetrievalTask(collator, images, config.evaluation, judged)

    combination = None if tables.validation is None else task(tables.validation).choose_combination(model)
    judged = None
    if config.judgements is not None:
        judged = judged_captions(tables.train, read_judgements(config.judgements))
    result = task(tables.train, judged).evaluate(model, combination)
    if truths is not None:
        result = replace(result, coco=coco_reports(result, tables.train, truths))
    if config.output is not None:
        Path(config.output).write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
    return result


def _make_room(file: Path) -> None:
    """Make the folder of a file before the figures are there that would be lost without it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("a", encoding="utf-8").close()
        if new:
            file.unlink()  # an evaluation that fails leaves nothing
    except OSError as error:
        raise ConfigError(f"output: {file} cannot be written ({error.strerror}); give another file") from error
