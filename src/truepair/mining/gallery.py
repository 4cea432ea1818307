"""The distinct pictures and captions of a table, and which of them belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from truepair.data.table import PairTable
from truepair.relations.ranges import ranges, starts_of

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """Many lists of numbers in one array: list i is ``values[starts[i] : starts[i + 1]]``.

    Attributes:
        starts: int64 [N + 1].
        values: int64 [V].
    """

    starts: Integers
    values: Integers

    @classmethod
    def of(cls, owners: Integers, values: Integers, count: int) -> Self:
        """Lists of the distinct values of each owner, in the order in which they first occur.

        Args:
            owners: number of the list of each value [V].
            values: int64 [V].
            count: how many lists.
        """
        _, first = np.unique(np.stack([owners, values]), axis=1, return_index=True)
        first = np.sort(first)
        order = first[np.argsort(owners[first], kind="stable")]
        return cls(starts_of(np.bincount(owners[order], minlength=count)), values[order])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> Integers:
        return self.values[self.starts[number] : self.starts[number + 1]]

    def some(self, numbers: Integers) -> Self:
        """Some of the lists, by their numbers [B]; B lists."""
        counts = self.counts[numbers]
        return type(self)(starts_of(counts), self.values[ranges(self.starts[numbers], counts)[1]])

    def padded(self, numbers: Integers, most: int | None = None) -> tuple[Integers, NDArray[np.bool_]]:
        """Some lists as rows of one array.

        Args:
            numbers: of the lists [B].
            most: values of a list that are taken, from its first on; None for all.

        Returns:
            Their values, 0 where a list has no more, and where it has, [B, K] each; K is the length of the longest,
            1 at least.
        """
        counts = self.starts[numbers + 1] - self.starts[numbers]
        width = max(int(counts.max(initial=1)), 1)
        places = np.arange(width if most is None else min(width, most))
        there = places < counts[:, None]
        values = np.zeros(there.shape, np.int64)
        values[there] = self.values[(self.starts[numbers][:, None] + places)[there]]
        return values, there

    @property
    def counts(self) -> Integers:
        """Length of each list [N]."""
        return np.diff(self.starts)

    @cached_property
    def owners(self) -> Integers:
        """Number of the list of each value [V]."""
        return np.repeat(np.arange(len(self)), self.counts)


@dataclass(frozen=True)
class Gallery:
    """N distinct pictures and M distinct captions; a *cell* is a picture and a caption.

    One picture in several rows is one picture, whatever ids it has; texts that are equal once normalised are one
    caption.

    Attributes:
        table: where pictures are read from.
        rows: a row of each picture, int64 [N].
        texts: each caption, in its first spelling, M.
        captions: the captions declared for each picture, N lists.
        pictures: the pictures that each caption is declared for, M lists.
        image_ids: the ids that each picture has, N lists.
        caption_ids: the ids that each caption has, M lists.
    """

    table: PairTable
    rows: Integers
    texts: Sequence[str]
    captions: Lists
    pictures: Lists
    image_ids: Lists
    caption_ids: Lists

    @classmethod
    def of_table(cls, table: PairTable) -> Self:
        """The pictures and captions of a table: all of its captions, not the first of each row."""
        picture_of_row = table.pictures  # [rows], in the order in which they first occur
        _, rows = np.unique(picture_of_row, return_index=True)
        captions_of_row = table.values("captions")
        counts = np.array([len(captions) for captions in captions_of_row], np.int64)
        row = np.repeat(np.arange(len(table)), counts)
        numbers: dict[int, int] = {}
        texts: list[str] = []
        caption = np.empty(len(row), np.int64)  # number of each stated caption
        place = 0
        for captions in captions_of_row:
            for text in captions:
                key = table.caption_key(text)
                number = numbers.setdefault(key, len(texts))
                if number == len(texts):
                    texts.append(text)
                caption[place] = number
                place += 1
        picture = picture_of_row[row]
        return cls(
            table=table,
            rows=rows.astype(np.int64),
            texts=texts,
            captions=Lists.of(picture, caption, len(rows)),
            pictures=Lists.of(caption, picture, len(texts)),
            image_ids=Lists.of(picture_of_row, table.image_ids, len(rows)),
            caption_ids=Lists.of(caption, table.caption_ids, len(texts)),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def declared(self) -> Integers:
        """The declared cells, as picture * M + caption, sorted, int64 [D]."""
        return np.sort(self.captions.owners * len(self.texts) + self.captions.values)

    def is_declared(self, pictures: Integers, captions: Integers) -> NDArray[np.bool_]:
        """Which cells are declared, bool [P]."""
        asked = pictures * len(self.texts) + captions
        place = np.searchsorted(self.declared, asked).clip(max=max(len(self.declared) - 1, 0))
        found: NDArray[np.bool_] = self.declared[place] == asked
        return found

    @cached_property
    def alike(self) -> Integers:
        """Number of the set of captions of each picture: pictures with the same ones in the same order share it [N]."""
        numbers: dict[bytes, int] = {}
        sets = (self.captions[number].tobytes() for number in range(len(self)))
        return np.array([numbers.setdefault(own, len(numbers)) for own in sets], np.int64)

    @cached_property
    def first_alike(self) -> Integers:
        """The first picture with each set of captions [S]."""
        return np.unique(self.alike, return_index=True)[1]

    def distinct(self, pictures: Integers, captions: Integers) -> tuple[Integers, Integers, Integers]:
        """Cells that differ in their captions: of pictures with the same captions, one stands for all.

        Args:
            pictures: of each cell [P].
            captions: of each cell [P].

        Returns:
            Pictures and captions of the distinct cells [Q] each, and which of them stands for each cell [P].
        """
        keys, place = np.unique(self.alike[pictures] * len(self.texts) + captions, return_inverse=True)
        return self.first_alike[keys // len(self.texts)], keys % len(self.texts), place
