"""Evaluating a trained model on any pairs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from truepair.data.judgements import JudgedCaptions, judged_captions, read_judgements
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig, build_tables
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.evaluation.coco import CocoGallery, CocoReport, CocoTruths, load_coco_truths
from truepair.evaluation.metrics import RetrievalProtocol
from truepair.evaluation.scores import ScoreSource
from truepair.files import write_json
from truepair.models.open import open_model
from truepair.relations.text import normalise_caption
from truepair.tasks.retrieval import ImageSource, RetrievalResult, RetrievalTask, build_truth


class CaptionScores:
    """Scores of distinct texts as scores of captions, several of which may share a text.

    Args:
        source: scores of images and distinct texts.
        texts: the text of each caption, int64 [C].
    """

    def __init__(self, source: ScoreSource, texts: Tensor) -> None:
        self.source = source
        self.texts = texts

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Scores of images ``start..stop - 1`` against all captions, [stop - start, C]."""
        return self.source.image_rows(start, stop)[:, self.texts]

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Scores of captions ``start..stop - 1`` against all images, [stop - start, I]."""
        distinct, place = self.texts[start:stop].unique(return_inverse=True)
        rows = torch.cat([self.source.caption_rows(int(text), int(text) + 1) for text in distinct])
        return rows[place]


def coco_reports(result: RetrievalResult, table: PairTable, truths: CocoTruths) -> dict[str, CocoReport]:
    """The report of every way of ranking.

    Args:
        result: figures of a model on the table, with its rankings.
        table: the Karpathy test split of COCO; image and caption ids are COCO's.
        truths: from `load_coco_truths`.

    Raises:
        DataError: images or captions of the test split are missing.
    """
    places = {normalise_caption(text): number for number, text in enumerate(build_truth(table).texts)}
    captions = [caption for own in table.rows["captions"] for caption in own]
    texts = torch.tensor([places[normalise_caption(caption)] for caption in captions])
    ids = [number for own in table.rows["caption_ids"] for number in own]
    gallery = CocoGallery(table.image_ids.tolist(), ids)
    return {way: gallery.evaluate(CaptionScores(scores, texts), truths) for way, scores in result.rankings.items()}


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
        CheckpointError: there is no such model, or it is damaged.
        DataError: the pairs cannot be read, or have no such split.
        ConfigError: figures that need a package that is not installed.
    """
    if config.output is not None:
        make_room(Path(config.output))
    opened = open_model(model_folder)
    model = opened.model.to(PartialState().device)
    transform, collator = opened.preprocessing.images(), opened.preprocessing.collator()
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
        write_json(Path(config.output), result.as_dict())
    return result


def make_room(file: Path) -> None:
    """Make the folder of a file before the figures are there that would be lost without it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("a", encoding="utf-8").close()
        if new:
            file.unlink()  # an evaluation that fails leaves nothing
    except OSError as error:
        raise ConfigError(f"output: {file} cannot be written ({error.strerror}); give another file") from error
