"""Judged pairs: a file that says which captions also match, or nearly match, images they do not belong to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from truepair.data.table import PairTable
from truepair.errors import DataError

Label = Literal["match", "near", "no"]


@dataclass(frozen=True)
class Judgement:
    """What somebody said of one image and one caption.

    Attributes:
        image_id: of the image.
        caption_id: of the caption.
        label: "match", "near" (left out of strict scores) or "no".
    """

    image_id: int
    caption_id: int
    label: Label


@dataclass(frozen=True)
class JudgedCaptions:
    """The judgements of a table's images, as texts: what `Truth.from_names` takes.

    Attributes:
        names: for each row, the captions known to be true of it (its own at least), then those judged to match.
        near: for each row, the captions judged to match nearly.
        matches: crossed matches: how many pairs of a row and a caption not its own were judged to match.
    """

    names: list[list[str]]
    near: list[list[str]]
    matches: int


def read_judgements(path: str | Path) -> list[Judgement]:
    """Read judged pairs.

    Each line is an object with ``image_id``, ``caption_id`` and ``label`` ("match", "near" or "no"); other fields, such
    as votes, are not read. Flickr8k's human judgements (Hodosh et al., JAIR 2013) and the like come in this form.

    Raises:
        DataError: there is no such file, or a line is not of this form.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"judged pairs cannot be read from {path} ({error}); check the path") from None
    return [_judgement(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def judged_captions(table: PairTable, judgements: Iterable[Judgement]) -> JudgedCaptions:
    """Match judgements with the images and captions of a table; those of other images or captions are left aside.

    A caption takes part only if it is one of the table's own, so that the gallery is the same with and without.

    Raises:
        DataError: no judgement is of this table: its ids are others.
    """
    captions: list[list[str]] = table.values("captions")
    texts = {
        caption_id: text
        for ids, own in zip(table.values("caption_ids"), captions, strict=True)
        for caption_id, text in zip(ids, own, strict=True)
    }
    rows: dict[int, list[int]] = {}
    for row, image_id in enumerate(table.image_ids.tolist()):
        rows.setdefault(image_id, []).append(row)
    of_table = [item for item in judgements if item.image_id in rows and item.caption_id in texts]
    if not of_table:
        raise DataError(f"no judged pair is of {table.name}; are image_id and caption_id those of its source?")
    found: dict[Label, list[list[str]]] = {label: [[] for _ in captions] for label in get_args(Label)}
    for item in of_table:
        for row in rows[item.image_id]:
            if (text := texts[item.caption_id]) not in captions[row]:
                found[item.label][row].append(text)
    stated = table.values("names") if "names" in table.rows.column_names else captions
    names = [[*(known or own), *also] for known, own, also in zip(stated, captions, found["match"], strict=True)]
    return JudgedCaptions(names, found["near"], sum(map(len, found["match"])))


def on_first_rows(judgements: Iterable[Judgement], table: PairTable) -> list[Judgement]:
    """The same judgements, with the image id of the first row of each picture: that of ``table.as_pictures()``.

    Args:
        judgements: on any of the ids of a picture.
        table: the rows, in which a picture may occur under several ids.
    """
    ids, pictures = table.image_ids, table.pictures
    _, first = np.unique(pictures, return_index=True)
    of_picture = dict(zip(ids.tolist(), ids[first[pictures]].tolist(), strict=True))
    return [replace(item, image_id=of_picture.get(item.image_id, item.image_id)) for item in judgements]


def _judgement(line: str, where: str) -> Judgement:
    try:
        entry: Any = json.loads(line)
        judgement = Judgement(entry["image_id"], entry["caption_id"], entry["label"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where} is no object with image_id, caption_id and label; repair or delete it") from None
    if judgement.label not in get_args(Label):
        raise DataError(f"{where}: label is {judgement.label!r}; give match, near or no")
    if not isinstance(judgement.image_id, int) or not isinstance(judgement.caption_id, int):
        raise DataError(f"{where}: image_id and caption_id must be integers; repair the file")
    return judgement
