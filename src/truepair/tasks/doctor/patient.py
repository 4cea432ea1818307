"""A table under examination: what is found out about it, each thing once."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from truepair.data.table import PairTable
from truepair.tasks.doctor.config import DoctorConfig
from truepair.tasks.doctor.pictures import PictureFacts, look_at_pictures
from truepair.tasks.doctor.same import Groups, near_pictures, same_labels
from truepair.tasks.doctor.texts import TextFaults, is_file_name

Integers = NDArray[np.int64]

_AT_ONCE = 65_536  # rows whose texts are read at once

Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""From a label to a context with a bar; it yields what to call with (done, all)."""


class Patient:
    """A table and what is found out about it; each thing once.

    Args:
        table: the pairs.
        config: what is examined.
        count: a label to a context that shows a bar.
    """

    def __init__(self, table: PairTable, config: DoctorConfig, count: Counting) -> None:
        self.table = table
        self.config = config
        self._count = count

    @cached_property
    def split_names(self) -> list[str]:
        """Names of the splits."""
        return list(self.table.splits)

    @cached_property
    def splits(self) -> Integers:
        """Number of the split of each row [N]."""
        return self._texts[0]

    @cached_property
    def units(self) -> Integers:
        """Number of the file, or of the picture that lies in the table, of each row [N]."""
        places = pc.dictionary_encode(self.table.places).combine_chunks()
        known = np.asarray(pc.is_valid(places.indices))
        numbers = np.asarray(pc.fill_null(places.indices, 0), np.int64)
        embedded = len(places.dictionary) + self.table.pictures
        return np.unique(np.where(known, numbers, embedded), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def unit_rows(self) -> Integers:
        """The first row of each unit [U]."""
        return np.unique(self.units, return_index=True)[1].astype(np.int64)

    @cached_property
    def files(self) -> list[str]:
        """Name of the picture of each unit, for people [U]."""
        shown = self.table.places.take(pa.array(self.unit_rows)).to_pylist()
        ids = self.table.image_ids[self.unit_rows]
        return [
            f"picture of id {one}" if place is None else place.rstrip("#")
            for place, one in zip(shown, ids, strict=True)
        ]

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which units have a file that is not there [U]."""
        absent = set(self.table.missing_files())
        return np.array([file.rpartition("#")[0] in absent or file in absent for file in self.files], bool)

    @cached_property
    def facts(self) -> PictureFacts | None:
        """Of the units that are there, in the order of :attr:`there`; None where pictures are not opened."""
        if not self.config.pictures:
            return None
        with self._count("pictures") as progress:
            return look_at_pictures(self.table, self.unit_rows[self.there], progress, self.config.workers)

    @cached_property
    def there(self) -> Integers:
        """Numbers of the units whose file is there."""
        return np.flatnonzero(~self.missing)

    @cached_property
    def groups(self) -> Groups:
        """Which rows show one picture: of one id, one file, or the same bytes, where pictures are opened [N]."""
        return Groups(self.table.pictures)

    @cached_property
    def near_groups(self) -> Groups | None:
        """Which rows show nearly one picture [N]; None where pictures are not opened."""
        if self.facts is None:
            return None
        left, right = near_pictures(self.facts)
        rows = self.unit_rows[self.there]
        return self.nearly(rows[left], rows[right])

    def nearly(self, left: Integers, right: Integers) -> Groups:
        """The groups of rows that show one picture, joined further by links between rows."""
        one, other = same_labels(self.groups.numbers)
        return Groups.joined(len(self.table), np.concatenate([one, left]), np.concatenate([other, right]))

    @cached_property
    def caption_rows(self) -> Integers:
        """Row of each stated caption [S]."""
        return self._texts[1]

    @property
    def coded(self) -> Integers:
        """Number of the text of each stated caption [S]."""
        return self._texts[2]

    @property
    def texts(self) -> list[str]:
        """The distinct texts, as they are written [T]."""
        return self._texts[3]

    @cached_property
    def _texts(self) -> tuple[Integers, Integers, Integers, list[str]]:
        """Split of each row, row and text of each caption, distinct texts; read in parts, which saves memory."""
        names = {name: number for number, name in enumerate(self.split_names)}
        numbers: dict[str, int] = {}
        splits, rows, coded = [], [], []
        for start in range(0, len(self.table), _AT_ONCE):
            part = self.table.select(np.arange(start, min(start + _AT_ONCE, len(self.table))))
            captions = part.values("captions")
            counts = np.array([len(own) for own in captions], np.int64)
            splits.append(np.array([names[name] for name in part.values("split")], np.int64))
            rows.append(np.repeat(np.arange(start, start + len(part)), counts))
            of_part = [numbers.setdefault(caption, len(numbers)) for own in captions for caption in own]
            coded.append(np.array(of_part, np.int64))
        none = np.zeros(0, np.int64)
        return *(np.concatenate([none, *parts]) for parts in (splits, rows, coded)), list(numbers)  # type: ignore[return-value]

    @cached_property
    def stated(self) -> Integers:
        """How many captions each text is [T]."""
        return np.bincount(self.coded, minlength=len(self.texts))

    @cached_property
    def faults(self) -> TextFaults:
        """What is wrong with each text."""
        with self._count("captions") as progress:
            return TextFaults.of(self.texts, self.table.cased, progress)

    @cached_property
    def generic(self) -> NDArray[np.bool_]:
        """Which stated captions say nothing of their picture [S]."""
        found = self.faults.generic[self.coded]
        stems = [os.path.splitext(os.path.basename(file))[0] for file in self.files]  # noqa: PTH119, PTH122 - many
        units = self.units[self.caption_rows].tolist()
        named = (
            is_file_name(self.texts[text], stems[unit]) for text, unit in zip(self.coded.tolist(), units, strict=True)
        )
        return np.asarray(found | np.fromiter(named, bool, len(found)), bool)
