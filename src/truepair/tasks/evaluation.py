"""Evaluating any model on any pairs."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from truepair.data.judgements import JudgedCaptions, judged_captions, on_first_rows, read_judgements
from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig, open_chosen, part_of
from truepair.data.table import PairTable
from truepair.data.tokens import tells_case
from truepair.engine.distributed.processes import own_device
from truepair.errors import ConfigError, DataError
from truepair.evaluation.coco import CocoGallery, CocoReport, CocoTruths, load_coco_truths
from truepair.evaluation.metrics import RetrievalProtocol
from truepair.files import as_json, write_json
from truepair.models.open import open_model
from truepair.settings import Natural, Share
from truepair.tasks.retrieval import EncodedPictures, ImageSource, RetrievalResult, RetrievalTask, encode_pictures


def coco_reports(result: RetrievalResult, table: PairTable, truths: CocoTruths) -> dict[str, CocoReport]:
    """The report of every way of ranking.

    Args:
        result: figures of a model on the table, with its rankings.
        table: the Karpathy test split of COCO; image and caption ids are COCO's.
        truths: from `load_coco_truths`.

    Raises:
        DataError: images or captions of the test split are missing.
    """
    ids = [number for own in table.rows["caption_ids"] for number in own]
    rankings = {way: ranking.captions for way, ranking in result.rankings.items()}
    return {
        way: CocoGallery(table.image_ids.tolist(), ids, scores.texts).evaluate(scores, truths)
        for way, scores in rankings.items()
    }


_TRIED = 1 << 16  # bytes; figures are fewer
_WHOLE = "all"
"""What the figures name the split of data without splits."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, and how.

    Attributes:
        data: a file, a folder or a hub name; "sample" is the bundled sample; or the fields of ``SourceConfig``. By
            default the data of the run that the model is of, with its choice of groups.
        split: split that is measured; by default that of the run, or "test".
        validation_split: split on which the weights of similarity and ITM are chosen; by default that of the run, or
            "val"; empty, or absent in the data, for not combining them.
        min_group_size: keep only rows whose group has this many rows over all splits; 0 for all.
        identity: which rows show one picture: "id", "file" or "bytes", see ``data.identity``; by default that of the
            run, or "bytes"; with ``coco`` "id", as papers have it.
        judgements: JSON Lines file of judged pairs; crossed matches count beside each picture's own captions.
        coco: also report COCO 1K and 5K, CxC and ECCV Caption; the split must be the Karpathy test split of COCO (needs
            truepair[eccv]).
        max_bad_fraction: largest share of unreadable pictures that is left out; by default that of the run, or 0.05.
        evaluation: how the figures are measured.
        output: JSON file for all figures with their confidence intervals.
    """

    data: str | SourceConfig | None = None
    split: str | None = None
    validation_split: str | None = None
    min_group_size: Natural | None = None
    identity: str | None = None
    judgements: str | None = None
    coco: bool = False
    max_bad_fraction: Share | None = None
    evaluation: RetrievalProtocol = field(default_factory=RetrievalProtocol)
    output: str | None = None


def evaluate_model(
    model: str | Path, config: EvaluateConfig, say: Callable[[str], None], run: DataConfig | None = None
) -> RetrievalResult:
    """Measure a model; pictures that cannot be read are left out, counted, said, and listed beside the output.

    Args:
        model: what ``open_model`` opens.
        config: what is measured, and how.
        say: prints a line.
        run: data of the run that the model is of, if there is one; measured where the config names none.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        DataError: the pairs cannot be read, or have no such split.
        ConfigError: there are no pairs to measure, or figures need a package that is not installed.
    """
    if config.output is not None:
        make_room(Path(config.output))
    opened = open_model(model, say)
    data = _asked_data(model, config, run)
    left_out = list_beside(config.output, say)
    table, notes = open_chosen(data)
    table = table.read_by_case(tells_case(opened.preprocessing.tokenization))
    left_out.rows(table)
    for line in notes:
        say(line)
    measured = _measured(table, data, config, say)
    network = opened.model.to(own_device())
    transform, collator = opened.preprocessing.images(), opened.preprocessing.collator()
    truths = load_coco_truths() if config.coco else None

    def encoded(table: PairTable) -> EncodedPictures:
        """The pictures of a split."""
        size = config.evaluation.batch_size
        return encode_pictures(network, table, transform, size, left_out, data.max_bad_fraction)

    def task(pictures: EncodedPictures, judged: JudgedCaptions | None = None) -> RetrievalTask:
        """Retrieval on the pictures of a split."""
        return RetrievalTask(
            collator,
            ImageSource(pictures.table, transform=transform),
            config.evaluation,
            judged,
            source=data.named("+".join(pictures.table.splits)),
            unreadable=pictures.unreadable,
            encoded=pictures.images,
        )

    combination = None
    validation = part_of(table, data.validation_split)
    if validation is not None and config.evaluation.rerank and network.itm_trained:
        combination = task(encoded(validation)).choose_combination(network)
    found = encoded(measured)
    pictures = found.table
    captions = [caption for of_picture in pictures.values("captions") for caption in of_picture]
    cut = dict.fromkeys(opened.preprocessing.cut(captions))
    left_out.cut(pictures.name, captions, cut, opened.preprocessing.max_length)
    judged = (
        None
        if config.judgements is None
        else judged_captions(pictures, on_first_rows(read_judgements(config.judgements), measured))
    )
    result = task(found, judged).evaluate(network, combination)
    if truths is not None:
        result = replace(result, coco=coco_reports(result, pictures, truths))
    if config.output is not None:
        write_figures(Path(config.output), result.as_dict(), say)
    return result


def _asked_data(model: str | Path, config: EvaluateConfig, run: DataConfig | None) -> DataConfig:
    """The data that are named, or else those of the run.

    Raises:
        ConfigError: no data are named, and the model is of no run.
    """
    if config.data is not None:
        data = DataConfig(sources=[config.data])
    elif run is not None:
        data = replace(run, drawings=0)  # of the training rows alone
    else:
        raise ConfigError(f"there is no run beside {model} whose data could be measured; say what is: --data pairs.csv")
    if config.validation_split is not None:
        data = replace(data, validation_split=config.validation_split)
    if config.max_bad_fraction is not None:
        data = replace(data, max_bad_fraction=config.max_bad_fraction)
    if config.min_group_size is not None:
        data = replace(data, min_group_size=config.min_group_size)
    identity = config.identity or ("id" if config.coco else data.identity)
    return replace(data, identity=identity)


def _measured(table: PairTable, data: DataConfig, config: EvaluateConfig, say: Callable[[str], None]) -> PairTable:
    """The split that is asked for, or the test split; all rows of named data without splits, or of one split alone.

    Raises:
        DataError: there is no such split.
    """
    split = config.split if config.split is not None else data.test_split
    try:
        return table.split(split)
    except DataError:
        if config.split is None and config.data is not None and table.split_origins == {"none"}:
            say(f"{table.name} has no splits: all its {len(table):,} rows are measured")
            return table.with_split(_WHOLE)
        if config.split is None and config.data is not None and len(table.splits) == 1:
            only = next(iter(table.splits))
            say(f"{table.name} has no split '{split}', and '{only}' alone: its {len(table):,} rows are measured")
            return table
        present = ", ".join(f"{name} ({count:,} rows)" for name, count in table.splits.items())
        trained = "" if config.data is not None else "; the run trained on some of them"
        raise DataError(
            f"{table.name} has no split '{split}' to measure; it has {present}{trained}: give --split or --data"
        ) from None


def list_beside(output: str | None, say: Callable[[str], None]) -> LeftOut:
    """What takes what an evaluation leaves out: a list beside the file of its figures, where there is one."""
    if output is None:
        return LeftOut(say, instead="--output FILE has them listed beside it")
    return LeftOut(say, Path(output).with_suffix(f".{SKIPPED}"))


def write_figures(file: Path, figures: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write figures; where the disk refuses, they are said, since it may have taken hours to measure them.

    Raises:
        DataError: the disk refuses.
    """
    try:
        write_json(file, figures)
    except DataError:
        say(as_json(figures))
        raise


def make_room(file: Path) -> None:
    """Make the folder of a file, and see that it takes one, before there are figures that would be lost without it.

    Raises:
        ConfigError: it does not.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with TemporaryFile(dir=file.parent) as tried:
            tried.write(bytes(_TRIED))
    except OSError as error:
        raise ConfigError(f"output: {file} cannot be written ({error.strerror}); give another file") from error
