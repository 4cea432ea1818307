"""Zero-shot classification: of any model on labelled images, and as a guard against forgetting in a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.images import BadImageError
from truepair.data.labelled import LabelledConfig, LabelledImages, open_labelled, read_templates
from truepair.data.left_out import LeftOut
from truepair.data.loading import read_batches
from truepair.data.preprocessing import Preprocessing
from truepair.data.transforms import ImageTransform
from truepair.engine.distributed.processes import own_device
from truepair.engine.logs.progress import counting
from truepair.errors import DataError
from truepair.evaluation.zero_shot import ZeroShotResult, class_features, zero_shot_result
from truepair.files import write_json
from truepair.methods.student import Say
from truepair.models.dual.base import DualEncoder
from truepair.models.open import open_model
from truepair.tasks.evaluation import list_beside, make_room, write_figures

ZERO_SHOT = "zero_shot.json"
"""File of a run's figures of zero-shot classification, before training and of the model that is left."""

TOP_1, TOP_5, CLASS_MEAN = "zero_shot_top1", "zero_shot_top5", "zero_shot_class_mean"
"""Names of the figures in the log of a run."""

_PROMPTS_AT_ONCE = 256


class ZeroShotTask:
    """Zero-shot classification of labelled images by any dual encoder.

    An image that cannot be read is left out and counted. Which those are is found when the first model is measured; the
    figures of all later ones are of the same images.

    Args:
        config: the images, and what is said of a class.
        preprocessing: how captions and images reach the models.
        left_out: takes what is left out.

    Raises:
        DataError: the images cannot be read as labelled ones.
        ConfigError: class names or templates that do not fit.
    """

    def __init__(self, config: LabelledConfig, preprocessing: Preprocessing, left_out: LeftOut) -> None:
        self.config = config
        self.templates = read_templates(config.templates)
        self.images = open_labelled(config, left_out)
        self.preprocessing = preprocessing
        self.left_out = left_out
        self.say = say = left_out.say
        self._readable: NDArray[np.int64] | None = None
        names = self.images.names
        few = ", ".join(f"'{name}'" for name in names[:3])
        say(f"zero-shot: {len(self.images.labels):,} images of {self.name}, {len(names):,} classes ({few}, ...)")
        self._say_long_prompts()

    @property
    def name(self) -> str:
        """The data and the split."""
        split = self.images.split
        return f"{self.images.table.name} ({split})" if split else self.images.table.name

    @torch.inference_mode()
    def evaluate(self, model: DualEncoder) -> ZeroShotResult:
        """Measure a model, which is put into evaluation mode.

        Raises:
            DataError: no image can be read, or one cannot be read any more.
        """
        model.eval()
        classes = self._class_features(model)
        rows, features = self._image_features(model)
        return zero_shot_result(
            features,
            classes,
            torch.from_numpy(self.images.labels[rows]),
            self.images.names,
            data=self.name,
            templates=len(self.templates),
            unreadable=len(self.images.labels) - len(rows),
        )

    def figures(self, model: DualEncoder) -> dict[str, float]:
        """The figures for the log of a run."""
        return figures_of(self.evaluate(model))

    def conclude(self, model: DualEncoder, before: Mapping[str, float], folder: Path, say: Say) -> "GuardResult":
        """Measure the model that a run leaves, beside what was before training; both go to ``zero_shot.json``.

        Args:
            model: trained.
            before: all validation figures before training; empty where they are not known.
            folder: the run folder.
            say: prints a line.
        """
        known = {name: before[name] for name in (TOP_1, TOP_5, CLASS_MEAN) if name in before}
        result = GuardResult(known, self.evaluate(model))
        write_json(folder / ZERO_SHOT, result.as_dict())
        if known:
            change = f"{known[TOP_1]:.1%} before training, {result.after.top_1.value:.1%} of the model that is left"
            say(f"zero-shot top-1: {change}")
        else:
            say("zero-shot top-1 before training is not known: the run began without the guard")
        return result

    def _say_long_prompts(self) -> None:
        """Say how many prompts are as long as a text can be: what was cut off them may be the class."""
        prompts, longest = self.images.prompts(self.templates), self.preprocessing.max_length
        long = sum(len(ids) >= longest for ids in self.preprocessing.tokenization(prompts))
        if long:
            self.say(
                f"{long:,} of {len(prompts):,} prompts fill all {longest} tokens that the model reads: some are cut"
            )

    def _class_features(self, model: DualEncoder) -> Tensor:
        """Features of the classes [C, E], float32 on the CPU."""
        prompts = self.images.prompts(self.templates)
        encode = self.preprocessing.collator().encode
        parts = []
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            ids, mask = encode(prompts[start : start + _PROMPTS_AT_ONCE])  # [B, L], [B, L]
            parts.append(model.encode_texts(ids.to(model.device), mask.to(model.device)).features.float().cpu())
        features = torch.cat(parts)  # [C * T, E]
        return class_features(features.reshape(len(self.images.names), len(self.templates), -1))

    def _image_features(self, model: DualEncoder) -> tuple[NDArray[np.int64], Tensor]:
        """Rows of the M readable images [M] and their features [M, E], float32 on the CPU."""
        rows, parts = list[int](), list[Tensor]()
        bad: dict[int, str] = {}
        with counting(f"zero-shot classification of {self.name}") as progress:
            for batch in self._batches():
                bad |= batch.unreadable
                if batch.rows:
                    rows += batch.rows
                    parts.append(model.encode_images(batch.pixels.to(model.device)).features.float().cpu())
                progress(len(rows) + len(bad), len(self.images.labels))
        if not rows:
            raise DataError(f"none of the images of {self.name} can be read; the first: {next(iter(bad.values()))}")
        if self._readable is None:
            self._readable = np.asarray(rows, np.int64)
            self.left_out.pictures(self.images.table, bad)
        elif bad:
            raise DataError(f"an image of {self.name} cannot be read any more: {next(iter(bad.values()))}")
        return self._readable, torch.cat(parts)

    def _batches(self) -> "Iterator[_Batch]":
        rows = np.arange(len(self.images.labels)) if self._readable is None else self._readable
        return read_batches(
            _Pictures(self.images, rows, self.preprocessing.images()),
            _collate,
            workers=self.config.workers,
            batch_size=self.config.batch_size,
        )


@dataclass(frozen=True)
class _Batch:
    """Images that could be read, and why others could not."""

    rows: list[int]
    pixels: Tensor  # float32 [B, 3, H, W]
    unreadable: dict[int, str]


class _Pictures(Dataset[tuple[int, Tensor | str]]):
    """Row and pixels [3, H, W] of some images, or why one cannot be read."""

    def __init__(self, images: LabelledImages, rows: NDArray[np.int64], transform: ImageTransform) -> None:
        self.stored = images.table.rows.select_columns(["image"])
        self.rows = rows
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        row = int(self.rows[index])
        try:
            return row, self.transform.read(self.stored[row]["image"])
        except BadImageError as error:
            return row, str(error)


def _collate(samples: Sequence[tuple[int, Tensor | str]]) -> _Batch:
    read = [(row, pixels) for row, pixels in samples if isinstance(pixels, Tensor)]
    pixels = torch.stack([pixels for _, pixels in read]) if read else torch.empty(0)
    return _Batch([row for row, _ in read], pixels, {row: reason for row, reason in samples if isinstance(reason, str)})


def figures_of(result: ZeroShotResult) -> dict[str, float]:
    """The figures for the log of a run; top-5 only where it was measured."""
    figures = {TOP_1: result.top_1.value, TOP_5: None if result.top_5 is None else result.top_5.value}
    figures[CLASS_MEAN] = result.class_mean
    return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EvaluateZeroShotConfig(LabelledConfig):
    """What is classified, and how.

    Attributes:
        output: JSON file for all figures, of every class as well.
    """

    output: str | None = None


def evaluate_zero_shot(model_folder: str | Path, config: EvaluateZeroShotConfig, say: Say) -> ZeroShotResult:
    """Measure any model.

    Args:
        model_folder: folder or name of a model, or a run folder.
        config: what is classified.
        say: prints a line.

    Raises:
        CheckpointError: there is no such model.
        DataError: the images cannot be read.
        ConfigError: names, templates or output that cannot be used.
    """
    if config.output is not None:
        make_room(Path(config.output))
    opened = open_model(model_folder, say)
    left_out = list_beside(config.output, say)
    result = ZeroShotTask(config, opened.preprocessing, left_out).evaluate(opened.model.to(own_device()))
    if config.output is not None:
        write_figures(Path(config.output), result.as_dict(), say)
    return result


@dataclass(frozen=True)
class GuardResult:
    """What training did to zero-shot classification.

    Attributes:
        before: figures before training, by the names of the log; empty where the log has none.
        after: of the model that the run leaves.
    """

    before: Mapping[str, float]
    after: ZeroShotResult

    def as_dict(self) -> dict[str, Any]:
        """Both, ready for JSON."""
        return {"before": dict(self.before), "after": self.after.as_dict()}


def forgetting(before: Mapping[str, float], now: Mapping[str, float], *, largest_fall: float) -> str | None:
    """What is said when top-1 has fallen by more than ``largest_fall`` since before training; None when it has not.

    Args:
        before: figures before training.
        now: the same of the model as it is.
        largest_fall: a share of the images; 0.02 for two points.
    """
    if not before[TOP_1] - now[TOP_1] > largest_fall:
        return None
    return (
        f"zero-shot top-1 fell from {before[TOP_1]:.1%} to {now[TOP_1]:.1%}: the model forgets; lower "
        "optimizer.learning_rate, freeze a tower (model.freeze_image, model.freeze_text), or mix with the start "
        "(model.interpolate)"
    )
