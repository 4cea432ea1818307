"""A clean list of pairs: what cannot be used is left out, what is the same becomes one, and each change is listed."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from truepair.data.formats.record import CAPTION_NAMES, IMAGE_NAMES
from truepair.data.images import read_bytes
from truepair.errors import ConfigError, DataError
from truepair.files import one_line_errors, writing_file
from truepair.tasks.doctor.patient import Patient
from truepair.tasks.doctor.texts import has_control, is_mojibake, mended

_AT_ONCE = 1024  # rows that are written at once

_FIRST = ("test", "val")
"""Of a picture in several splits, that of the first of these stays."""

_OWN = frozenset(("image", "image_id", "captions", "caption_ids", "split", "group", "family", "names"))

_TAKEN = frozenset((*IMAGE_NAMES, *CAPTION_NAMES))  # names that the reader would take for the picture or the captions


@dataclass(frozen=True)
class Cleaned:
    """A clean list.

    Attributes:
        path: of the list, JSON Lines.
        left_out: of the list of all that was left out or changed.
        rows: how many rows it holds.
        captions: how many captions.
        reasons: why something was left out or changed -> how often.
        notes: what else was done, a line each.
    """

    path: Path
    left_out: Path
    rows: int
    captions: int
    reasons: dict[str, int]
    notes: list[str]


def require_new_list(out: str, sources: tuple[str, ...]) -> Path:
    """The path of a clean list, checked before the long work.

    Raises:
        ConfigError: it is no .jsonl file, or one of the sources.
    """
    path = Path(out).expanduser()
    if path.suffix != ".jsonl":
        raise ConfigError(f"the clean list is JSON Lines; give --fix {path.with_suffix('.jsonl')}")
    if any(path.absolute() == Path(source).expanduser().absolute() for source in sources):
        raise ConfigError(f"--fix {out} would replace what is examined; give another name")
    return path


def write_clean(patient: Patient, path: Path) -> Cleaned:
    """Write a clean list, which ``open_pairs`` reads as it is; no picture is copied but those that lie in no file.

    * Rows whose picture is missing or cannot be read are left out.
    * A picture in several splits stays in the test split, else in the validation split.
    * Rows of one picture get the file and the id of the first of them.
    * Captions that say nothing are left out, and so are those that repeat another one of their picture. Those that were
      read in a wrong encoding, or hold control characters, are mended.

    Nearly equal pictures, and captions that a tokenizer cuts, stay.

    Args:
        patient: the pairs.
        path: a .jsonl file; see :func:`require_new_list`.

    Raises:
        DataError: the disk refuses, or nothing is left.
    """
    cleaner = _Cleaner(patient, path)
    with writing_file(path) as file:
        for row in cleaner.rows():
            file.write(_line(row))
        if not cleaner.kept:
            raise DataError(f"nothing of {patient.table.name} is left for a clean list")
    left_out = path.with_name(f"{path.stem}.left_out.jsonl")
    with writing_file(left_out) as file:
        for change in cleaner.changes:
            file.write(_line(change))
    reasons = Counter(str(change["why"]) for change in cleaner.changes)
    return Cleaned(path, left_out, cleaner.kept, cleaner.kept_captions, dict(reasons), cleaner.notes)


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


class _Cleaner:
    """Makes the rows of a clean list.

    Args:
        patient: the pairs.
        path: of the list.

    Attributes:
        changes: all that was left out or changed: the row, its file and split, why, and what stands there instead.
        kept: rows so far.
        kept_captions: captions so far.
        notes: what else was done, a line each.
    """

    def __init__(self, patient: Patient, path: Path) -> None:
        self.changes: list[dict[str, Any]] = []
        self.kept = self.kept_captions = 0
        self.notes: list[str] = []
        self._patient = patient
        self._pictures = _PicturePaths(patient, path, self.notes)
        self._seen: set[tuple[int, int]] = set()
        self._extra = [name for name in patient.table.rows.column_names if name not in _OWN]
        lost = sorted(_TAKEN.intersection(self._extra))
        if lost:
            self.notes.append(
                f"not in the list, since it would be read as picture or caption: column {', '.join(lost)}"
            )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that are left."""
        patient, place = self._patient, 0
        why = rows_left_out(patient)
        firsts = _firsts(patient, why)
        names = [name for name in (*_OWN, *self._extra) if name != "image" and name in patient.table.rows.column_names]
        for start in range(0, len(patient.table), _AT_ONCE):
            part = patient.table.select(np.arange(start, min(start + _AT_ONCE, len(patient.table))))
            columns = {name: part.values(name) for name in names}
            for number in range(len(part)):
                row, entry = start + number, {name: column[number] for name, column in columns.items()}
                count = len(entry["captions"])
                if why[row]:
                    self._change(row, entry, why[row])
                elif captions := self._captions(row, place, entry):
                    yield self._row(row, int(firsts[row]), entry, captions)
                else:
                    self._change(row, entry, "row left out: no caption is left")
                place += count

    def _row(self, row: int, first: int, entry: dict[str, Any], captions: list[tuple[int, str]]) -> dict[str, Any]:
        units = self._patient.units
        image = self._pictures.of(first)
        if units[first] != units[row]:
            self._change(row, entry, "another file of the same picture is named", instead=image)
        self.kept += 1
        self.kept_captions += len(captions)
        more = {name: value for name, value in entry.items() if name not in _TAKEN and value is not None}
        return {
            "image": image,
            **more,
            "image_id": int(self._patient.table.image_ids[first]),
            "captions": [text for _, text in captions],
            "caption_ids": [number for number, _ in captions],
        }

    def _captions(self, row: int, place: int, entry: dict[str, Any]) -> list[tuple[int, str]]:
        """Ids and texts of the captions that stay."""
        kept = []
        for offset, (number, stated) in enumerate(zip(entry["caption_ids"], entry["captions"], strict=True)):
            generic, text = self._patient.generic[place + offset], stated
            if is_mojibake(stated) or has_control(stated):
                text = mended(stated)
            cell = (int(self._patient.groups.numbers[row]), self._patient.table.caption_key(text))
            if generic or not text:
                self._change(row, entry, "caption left out: it says nothing", caption=stated)
            elif cell in self._seen:
                self._change(row, entry, "caption left out: its picture has it already", caption=stated)
            else:
                self._seen.add(cell)
                kept.append((number, text))
                if text != stated:
                    self._change(row, entry, "caption mended", caption=stated, instead=text)
        return kept

    def _change(self, row: int, entry: dict[str, Any], why: str, **more: str) -> None:
        file = self._patient.files[int(self._patient.units[row])]
        self.changes.append({"file": file, "row": row, "split": entry["split"], "why": why, **more})


def rows_left_out(patient: Patient) -> list[str]:
    """Why each row is left out; empty for those that stay [N]."""
    problems = np.full(len(patient.unit_rows), "", object)
    problems[patient.missing] = "row left out: its picture is missing"
    if patient.facts is not None:
        for place in patient.facts.problems:
            problems[patient.there[place]] = "row left out: its picture cannot be read"
    why = problems[patient.units]
    order = [_FIRST.index(name) if name in _FIRST else len(_FIRST) for name in patient.split_names]
    ranks = np.array([2 * rank * len(order) + number for number, rank in enumerate(order)])[patient.splits]  # [N]
    usable = why == ""
    best = np.full(len(patient.groups), np.iinfo(np.int64).max)
    np.minimum.at(best, patient.groups.numbers[usable], ranks[usable])
    leaked = usable & (ranks > best[patient.groups.numbers])
    why[leaked] = "row left out: its picture is in another split, too"
    return [str(one) for one in why]


def _firsts(patient: Patient, why: list[str]) -> NDArray[np.int64]:
    """The row whose picture and id stand for each row's [N]: the first of its picture that stays."""
    kept = np.array([not one for one in why], bool)
    firsts = np.full(len(patient.groups), len(why))
    np.minimum.at(firsts, patient.groups.numbers[kept], np.flatnonzero(kept))
    return firsts[patient.groups.numbers].astype(np.int64)


class _PicturePaths:
    """Paths of pictures that hold from a list's folder, since a list may not name files outside it.

    Pictures outside are reached by a link to the folder that holds them all; those that lie in a table or an archive
    are written as files.

    Args:
        patient: the pairs.
        path: of the list.
        notes: takes a line on what is made beside the list.
    """

    def __init__(self, patient: Patient, path: Path, notes: list[str]) -> None:
        self._patient = patient
        self._folder = Path(os.path.realpath(path.parent))
        self._link, self._written = (self._folder / f"{path.stem}.{name}" for name in ("linked", "pictures"))
        self._notes = notes
        self._paths: dict[int, str] = {}
        self._outside = self._common()

    def of(self, row: int) -> str:
        """The path of a row's picture."""
        unit = int(self._patient.units[row])
        if unit not in self._paths:
            self._paths[unit] = self._path(row)
        return self._paths[unit]

    def _path(self, row: int) -> str:
        cell = self._patient.table.select([row]).values("image")[0]
        if cell.get("bytes") is not None or cell.get("offset") is not None:
            return self._write(read_bytes(cell))
        file = Path(os.path.realpath(cell["path"]))
        if file.is_relative_to(self._folder):
            return file.relative_to(self._folder).as_posix()
        if not self._link.is_symlink():
            with one_line_errors(self._link, DataError, "choose a folder above the pictures"):
                self._link.symlink_to(os.path.relpath(self._outside, self._folder), target_is_directory=True)
            self._notes.append(f"{self._link} leads to the pictures in {self._outside}: keep it beside the list")
        return f"{self._link.name}/{file.relative_to(self._outside).as_posix()}"

    def _common(self) -> Path:
        """The folder that holds all pictures which are not below the list's."""
        if self._link.is_symlink():  # of a list that was written here before
            with one_line_errors(self._link, DataError, "choose a folder above the pictures"):
                self._link.unlink()
        places = self._patient.table.places.to_pylist()
        folders = {os.path.dirname(os.path.realpath(one.rstrip("#"))) for one in places if one and one.endswith("#")}  # noqa: PTH120
        outside = [folder for folder in folders if not Path(folder).is_relative_to(self._folder)]
        return Path(os.path.commonpath(outside)) if outside else self._folder

    def _write(self, data: bytes) -> str:
        if not self._written.is_dir():
            self._notes.append(f"pictures that lie in no file of their own were written into {self._written}")
        with Image.open(io.BytesIO(data)) as opened:
            ending = (opened.format or "img").lower()
        file = self._written / f"{xxhash.xxh3_128_hexdigest(data)}.{ending}"
        with writing_file(file) as opened_file:
            opened_file.write(data)
        return f"{self._written.name}/{file.name}"
