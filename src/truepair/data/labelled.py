"""Labelled images and the prompts of their classes: what zero-shot classification is measured on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truepair.data.left_out import LeftOut
from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError, nearest
from truepair.randomness import stable_hash
from truepair.settings import Natural, Positive, check_settings

TEMPLATES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of a {}.",),
    "clip7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}
"""Prompts of a class by name of the set: the first of CLIP's paper (Radford et al. 2021, section 3.1.4), and the seven
that its authors' notebook on prompts for ImageNet chose out of eighty."""

_PREFERRED_SPLITS = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Images with classes, and what is said of a class.

    Attributes:
        data: a folder of classes (``CLASS/a.jpg``, or ``SPLIT/CLASS/a.jpg``), a file with a label column (CSV, JSON
            Lines, Parquet), or a ``datasets`` name; or the fields of ``SourceConfig``.
        split: split that is measured; when empty the only one, or else "val", or else "test".
        classes: file of class names: text, a line a class, or JSON; by default the labels themselves are the names,
            with spaces for underscores.
        templates: "photo" (one prompt a class), "clip7" (seven), or a text file with a prompt a line, {} for the class.
        images_per_class: take at most so many images of a class, chosen by a hash; 0 for all.
        batch_size: images encoded at once.
        workers: data loading processes.
    """

    data: str | SourceConfig = ""
    split: str = ""
    classes: str | None = None
    templates: str = "photo"
    images_per_class: Natural = 0
    batch_size: Positive = 64
    workers: Natural = 2

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError(
                "zero-shot classification has no data; name a folder of classes, a file with labels or a data set"
            )
        check_settings(self)


@dataclass(frozen=True)
class LabelledImages:
    """The images of a split with their classes.

    Attributes:
        table: the images, N of them.
        labels: class of each image, int64 [N].
        names: of the C classes, as a prompt has them.
        split: which split this is; empty where there is one alone.
    """

    table: PairTable
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    split: str

    def prompts(self, templates: Sequence[str]) -> list[str]:
        """All prompts of the first class, then those of the second, and so on: C * T texts."""
        return [template.format(name) for name in self.names for template in templates]


def open_labelled(config: LabelledConfig, left_out: LeftOut) -> LabelledImages:
    """Open labelled images; the classes are those of all splits.

    Args:
        config: what to open.
        left_out: takes what is left out.

    Raises:
        DataError: they cannot be read, have no such split, or fewer than two classes.
        ConfigError: the names do not fit the classes.
    """
    source = config.data if isinstance(config.data, SourceConfig) else SourceConfig(source=config.data)
    table = open_pairs(replace(source, labels=True))
    left_out.rows(table)
    classes = sorted({label for labels in table.values("captions") for label in labels}, key=_by_number)
    if len(classes) < 2:
        raise DataError(f"{table.name} has one class, {classes[0]}; give a folder with a folder for each class")
    names = class_names(classes, config.classes)
    _say_shared(names, left_out.say)
    split = config.split or _usual_split(table)
    if split:
        table = table.split(split)
    places = {label: number for number, label in enumerate(classes)}
    stated = table.values("captions")
    _require_one_label(table, stated)
    labels = np.asarray([places[label] for (label,) in stated], np.int64)
    if config.images_per_class:
        rows = _few_of_each(table.image_ids, labels, config.images_per_class)
        table, labels = table.select(rows), labels[rows]
    return LabelledImages(table, labels, tuple(names), split)


def class_names(classes: Sequence[str], file: str | None) -> list[str]:
    """The names of classes, as a prompt has them.

    Args:
        classes: their labels, in order.
        file: text with a line a class, either ``LABEL NAME``, or the names alone in the order of the labels; or JSON:
            ``{label: name}``, a list of names in that order, or ``{number: [label, name]}`` as ImageNet has it. None
            for the labels with spaces for underscores.

    Raises:
        ConfigError: the file cannot be read, or does not name every class.
    """
    if file is None:
        return [label.replace("_", " ").strip() for label in classes]
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
        stated = json.loads(text) if Path(file).suffix.lower() == ".json" else _lines(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the class names in {file} cannot be read ({error}); give a text or JSON file") from None
    named = _named(stated, classes)
    missing = [label for label in classes if not isinstance(named.get(label), str)]
    if missing:
        count = len(stated) if isinstance(stated, dict | list) else 0
        raise ConfigError(
            f"{file} names {count} classes and not {missing[0]}, one of {len(classes)}; give a line LABEL NAME for "
            "each, or as many names as there are classes"
        )
    return [named[label].strip() for label in classes]


def read_templates(name_or_file: str) -> tuple[str, ...]:
    """The prompts of a class.

    Raises:
        ConfigError: there is no such set and no such file, or a line of it has not one {}.
    """
    if name_or_file in TEMPLATES:
        return TEMPLATES[name_or_file]
    file = Path(name_or_file).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"there are no templates '{name_or_file}'{nearest(name_or_file, TEMPLATES)}; give {', '.join(TEMPLATES)}, "
            "or a text file with a prompt a line"
        )
    try:
        lines = _lines(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the templates in {file} cannot be read ({error}); give a text file in UTF-8") from None
    wrong = next((line for line in lines if line.count("{}") != 1 or line.count("{") + line.count("}") != 2), None)
    if wrong is not None or not lines:
        raise ConfigError(f"{file}: '{wrong or ''}' is no prompt; write a line such as 'a photo of a {{}}.'")
    return tuple(lines)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _named(stated: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Label -> name, in whichever form names are stated."""
    if isinstance(stated, dict):
        pairs = [
            value if isinstance(value, list) and len(value) == 2 else (key, value) for key, value in stated.items()
        ]
        return {str(label): name for label, name in pairs}
    if not isinstance(stated, list):
        return {}
    labelled = dict(line.split(maxsplit=1) for line in stated if isinstance(line, str) and " " in line)
    if set(classes) <= labelled.keys():
        return labelled
    return dict(zip(classes, stated, strict=True)) if len(stated) == len(classes) else {}


def _by_number(label: str) -> tuple[int, str]:
    """Labels that are numbers in their order, others by the alphabet."""
    return (int(label), "") if label.isascii() and label.isdigit() else (-1, label)


def _usual_split(table: PairTable) -> str:
    """The split that is measured where none is asked for; empty for the only one.

    Raises:
        DataError: several, and none of the usual ones.
    """
    if len(table.splits) == 1:
        return ""
    found = next((name for name in _PREFERRED_SPLITS if name in table.splits), None)
    if found is None:
        raise DataError(f"{table.name} has the splits {', '.join(table.splits)}; name one with split")
    return found


def _say_shared(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Say which classes share a name: no model can tell them apart."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        say(f"{len(twice)} names stand for several classes, which cannot be told apart: {', '.join(twice[:5])}")


def _require_one_label(table: PairTable, stated: Sequence[Sequence[str]]) -> None:
    several = next((row for row, labels in enumerate(stated) if len(labels) != 1), None)
    if several is not None:
        raise DataError(
            f"row {several} of {table.name} has the labels {', '.join(stated[several])}; give each image one class"
        )


def _few_of_each(image_ids: NDArray[np.int64], labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows [M] of at most so many images of each class, in the order of the table."""
    order = np.argsort([stable_hash("labelled", int(image)) for image in image_ids], kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]  # [N], class by class
    starts = np.searchsorted(labels[by_class], labels[by_class])
    kept: NDArray[np.int64] = np.sort(by_class[np.arange(len(by_class)) - starts < most])
    return kept
