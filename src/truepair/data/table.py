"""The table of image-text pairs that everything above is built on."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from PIL import Image

from truepair.data.columns import BLOCK, IMAGES, blocks_of_rows, take_rows
from truepair.data.contents import Contents, picture_stamps
from truepair.data.images import load_image
from truepair.data.split_names import split_of_word
from truepair.errors import DataError
from truepair.randomness import splitmix64, stable_hash
from truepair.relations.ranges import starts_of
from truepair.relations.text import caption_key, caption_keys


class PairTable:
    """Image-text pairs in Arrow, memory-mapped, with random access by row. Images stay encoded until they are read.

    Columns of ``rows``:

    * ``image``: ``bytes``, or ``path`` of a file; with ``offset`` and ``size`` if the image is a part of that file.
    * ``image_id`` int64, ``captions`` list of text, ``caption_ids`` list of int64, ``split`` text.
    * known truth, where the source has it, for evaluation alone: ``group`` (every caption of a group is true of all its
      images), ``family`` (within it, truth is unclear), ``names`` (all captions known to be true of the image, over all
      splits).
    * further columns of the source, as text.

    Attributes:
        name: name of the source.
        skipped: (where, why) of everything the source holds that did not become part of a row.
        split_origins: where the splits are from: some of "stated" (by the rows), "named" (by files or folders) and
            "none" (nothing says one, so they are "train"); or "given" by the caller.
        cased: whether captions that differ in case alone are different captions, as they are to a model whose tokenizer
            tells case apart; no, as long as nobody has said which model reads them, see :meth:`read_by_case`.
    """

    def __init__(
        self,
        rows: Dataset,
        name: str = "pairs",
        skipped: Sequence[tuple[str, str]] = (),
        *,
        chosen: NDArray[np.int64] | None = None,
        split_origins: Iterable[str] = (),
        contents: Contents | None = None,
        cased: bool = False,
    ) -> None:
        """Wrap rows that have the columns above.

        Args:
            rows: the rows.
            name: name of the source.
            skipped: what was left out.
            chosen: numbers of the rows that belong to the table, in order, int64 [N]; None for all.
            split_origins: where the splits are from.
            contents: what lies behind the pictures of ``rows``; by default no file is looked at, and pictures are the
                same by id and path.
            cased: whether case tells captions apart.

        Raises:
            DataError: a column is missing.
        """
        missing = {"image", "image_id", "captions", "caption_ids", "split"} - set(rows.column_names)
        if missing:
            raise DataError(f"{name} lacks the columns {', '.join(sorted(missing))}; open it with open_pairs")
        self.name = name
        self.skipped = list(skipped)
        self.split_origins = frozenset(split_origins)
        self.cased = cased
        # Stored rows and the choice among them are kept apart, so that tables can be concatenated without a copy.
        self._stored = rows
        self._chosen = chosen
        self._same = _Same(rows, contents)

    @cached_property
    def rows(self) -> Dataset:
        """The rows of the table."""
        return self._stored if self._chosen is None else self._stored.select(self._chosen)

    def __len__(self) -> int:
        return len(self._stored) if self._chosen is None else len(self._chosen)

    def __repr__(self) -> str:
        return f"PairTable({self.name!r}, {len(self)} rows, columns {', '.join(self._stored.column_names)})"

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """Image id of each row [N]."""
        return np.asarray(self._column("image_id").to_numpy(), dtype=np.int64)

    @cached_property
    def contents(self) -> Contents:
        """What lies behind the picture of each row."""
        contents = self._same.contents
        return contents if self._chosen is None else contents.take(self._chosen)

    @cached_property
    def picture_keys(self) -> NDArray[np.int64]:
        """A key for the picture of each row, int64 [N]: the smallest of the image ids that stand for it in this table.

        Rows show one picture if they share an image id, a file, or the bytes of a picture, as ``data.identity`` has it,
        or if both show the picture of a third row. Files' paths are no part of the keys, which stay when a data set is
        moved.
        """
        ids, pictures = self.image_ids, self._picture_of_row  # [N]
        _, number = np.unique(pictures, return_inverse=True)
        smallest = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(smallest, number, ids)
        return np.asarray(smallest[number], np.int64)

    @cached_property
    def pictures(self) -> NDArray[np.int64]:
        """Number of each row's picture, in the order in which pictures first occur, int64 [N]."""
        _, first, numbers = np.unique(self._picture_of_row, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return np.asarray(rank[numbers], np.int64)

    def shows_pictures_of(self, other: "PairTable") -> NDArray[np.bool_]:
        """Which rows show a picture that another table shows as well, bool [N]."""
        if self._stored is other._stored:
            return np.isin(self._picture_of_row, other._picture_of_row)
        images = pa.chunked_array([*self._stored_column("image").chunks, *other._stored_column("image").chunks])
        contents = Contents.concat([self._same.contents, other._same.contents], images)
        pictures = contents.pictures(np.concatenate([self._same.ids, other._same.ids]))
        mine, others = pictures[: len(self._stored)], pictures[len(self._stored) :]
        return np.isin(mine[self._positions()], others[other._positions()])

    def rows_of(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row of each of some images of the table [M]."""
        known, first = np.unique(self.image_ids, return_index=True)
        return np.asarray(first[np.searchsorted(known, image_ids)], np.int64)

    @property
    def splits(self) -> dict[str, int]:
        """Names of the splits, and how many rows each has."""
        counts = pc.value_counts(self._column("split")).to_pylist()
        return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: entry["values"])}

    @property
    def caption_ids(self) -> NDArray[np.int64]:
        """Ids of all captions of all rows in order, int64 [number of captions]."""
        return np.asarray(pc.list_flatten(self._column("caption_ids")).to_numpy(), np.int64)

    @property
    def caption_counts(self) -> NDArray[np.int64]:
        """How many captions each row has, int64 [N]."""
        return np.asarray(pc.list_value_length(self._column("captions")).to_numpy(), np.int64)

    @property
    def first_captions(self) -> NDArray[np.int64]:
        """Place of each row's first caption among all captions of all rows, int64 [N]."""
        return starts_of(self.caption_counts)[:-1]

    @property
    def caption_count(self) -> int:
        """How many captions all rows have."""
        return int(pc.sum(pc.list_value_length(self._column("captions"))).as_py() or 0)

    def values(self, name: str) -> list[Any]:
        """A column of all rows; many times faster than ``list(table.rows[name])``."""
        column = self._column(name)
        if not pa.types.is_list(column.type):
            return list(column.to_pylist())
        return [value for part in column.chunks for value in _lists(part)]

    def captions(self, step: int = 1) -> Iterator[str]:
        """All captions of all rows in order, or every so many-th of them; few of them are in memory at once."""
        first = 0  # that is wanted of a block
        for block in self.caption_blocks():
            wanted = block if step == 1 else block.take(pa.array(np.arange(first, len(block), step)))
            yield from wanted.to_pylist()
            first = (first - len(block)) % step

    def caption_blocks(self) -> Iterator[pa.ChunkedArray]:
        """All captions of all rows in order, as Arrow arrays of text, so many rows at a time."""
        return map(pc.list_flatten, self._blocks("captions"))

    def first_caption_keys(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ``caption_key`` of the first caption of each of some rows, int64 [M]; few texts are in memory at once."""
        blocks = self.select(rows)._blocks("captions")
        keys = [caption_keys(pc.list_element(column, 0).to_pylist(), self.cased) for column in blocks]
        return np.concatenate(keys) if keys else np.empty(0, np.int64)

    def caption_key(self, text: str) -> int:
        """Number that is equal for captions that count as the same in this table, see ``caption_key``."""
        return caption_key(text, self.cased)

    def image(self, index: int) -> Image.Image:
        """Decode the image of a row to 8-bit RGB.

        Raises:
            BadImageError: it cannot be read.
        """
        return load_image(self.rows[index]["image"])

    @property
    def _picture_of_row(self) -> NDArray[np.int64]:
        """A number for the picture of each row, which it keeps in every table that is selected from this one [N]."""
        return self._same.pictures if self._chosen is None else self._same.pictures[self._chosen]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each row among all that were read, before any choice, int64 [N]."""
        return self._positions()

    def image_paths(self, rows: Sequence[int]) -> list[str | None]:
        """The file that the image of each of some rows is in; None for those that the table holds."""
        cells = self.rows.select_columns(["image"])[list(rows)]["image"] if len(rows) else []
        return [None if cell.get("bytes") is not None else cell.get("path") for cell in cells]

    def picture_stamps(self, rows: NDArray[np.int64], check: str = "times") -> NDArray[np.int64]:
        """A number of the picture of each of some rows as it lies there now, int64 [R]; 0 where it is not there.

        Args:
            rows: each once, int64 [R].
            check: one of ``truepair.checked.CHECKS``; see :func:`truepair.data.contents.picture_stamps`.
        """
        contents = self.contents
        content = contents.content[contents.number[rows]]
        return picture_stamps(self._stored_column("image"), self._positions()[rows], content, check)

    def missing_files(self) -> list[str]:
        """Image files that rows name and that are no files, each once; images that lie in the table are there."""
        paths = self._image_field("path").filter(pc.is_null(self._image_field("bytes")))
        return [path for path in pc.unique(paths).to_pylist() if not os.path.isfile(path)]  # noqa: PTH113 - many

    def select(self, indices: Iterable[int]) -> "PairTable":
        """The rows with these numbers, in this order; nothing is copied.

        Raises:
            DataError: a number is out of range.
        """
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise DataError(f"rows {chosen.min()} to {chosen.max()} of {self.name} are asked for; it has {len(self)}")
        if len(chosen) == len(self) and np.array_equal(chosen, np.arange(len(self))):
            return self._with(self._stored, self._chosen)  # columns that are whole are read several times faster
        return self._with(self._stored, chosen if self._chosen is None else self._chosen[chosen])

    def read_by_case(self, cased: bool) -> "PairTable":
        """The same table for a model whose tokenizer tells case apart, or does not; see ``tells_case``."""
        if cased == self.cased:
            return self
        table = self._with(self._stored, self._chosen)
        table.cased = cased
        return table

    def also_skipped(self, more: Sequence[tuple[str, str]]) -> "PairTable":
        """The same table, which names more things that were left out."""
        table = self._with(self._stored, self._chosen)
        table.skipped += more
        return table

    def split(self, name: str) -> "PairTable":
        """The rows of one split, or of several: "train+restval".

        Raises:
            DataError: there is no such split.
        """
        present = self.splits
        wanted = [word if word in present else split_of_word(word) for word in name.split("+")]
        missing = set(wanted) - set(present)
        if missing:
            raise DataError(f"{self.name} has no split '{min(missing)}'; it has {', '.join(present)}")
        chosen = pc.is_in(self._column("split"), value_set=pa.array(wanted)).to_numpy()
        return self.select(np.flatnonzero(chosen))

    def with_split(self, name: str) -> "PairTable":
        """The same rows, all of one split, which the caller gives."""
        column = Dataset(pa.table({"split": pa.repeat(name, len(self._stored))}))
        stored = concatenate_datasets([self._stored.remove_columns("split"), column], axis=1)
        table = PairTable(
            stored, self.name, self.skipped, chosen=self._chosen, split_origins=["given"], cased=self.cased
        )
        table._same = self._same
        return table

    @property
    def places(self) -> pa.ChunkedArray:
        """Where the image of each row lies, path and offset as text [N]; null for images that the table holds."""
        image = self._stored.select_columns(["image"]).with_format("arrow")[:].column("image")
        offset = pc.fill_null(pc.cast(pc.struct_field(image, "offset"), pa.string()), "")
        places = pc.binary_join_element_wise(pc.struct_field(image, "path"), offset, "#")
        embedded = pc.is_valid(pc.struct_field(image, "bytes"))
        places = pc.if_else(embedded, pa.scalar(None, pa.string()), places)
        return places if self._chosen is None else places.take(pa.array(self._chosen))

    def as_pairs(self) -> "PairTable":
        """One row per caption. Files are not copied; embedded images are, in memory, once per further caption."""
        captions = self._column("captions")
        counts = pc.list_value_length(captions).to_numpy()  # [N]
        if (counts == 1).all():
            return self
        repeated = np.repeat(np.arange(len(self)), counts)  # [number of captions]
        stored = self._positions()[repeated]
        columns = {
            name: take_rows(self._stored_column(name), stored, _at_once(name)) for name in self._stored.column_names
        }
        for name in ("captions", "caption_ids"):
            columns[name] = _lists_of_one(pc.list_flatten(self._column(name)))
        return self._with(Dataset(pa.table(columns)), None, self.contents.take(repeated))

    def as_pictures(self) -> "PairTable":
        """One row per picture, with all its captions: the inverse of ``as_pairs``; the same table if it is so already.

        A row takes image, ids and further columns from the first of its picture; ``names`` are those of all its rows. A
        ``group`` or ``family`` in which they differ is left empty: what is true of the picture stands in ``names``.
        Files are not copied; embedded images are, in memory.
        """
        pictures = self.pictures
        count = int(pictures.max(initial=-1)) + 1
        if count == len(self):
            return self
        order = np.argsort(pictures, kind="stable")
        starts = np.searchsorted(pictures[order], np.arange(count + 1))  # [pictures + 1]
        firsts = order[starts[:-1]]
        columns = {
            name: take_rows(self._stored_column(name), self._positions()[firsts], _at_once(name))
            for name in self._stored.column_names
        }
        for name in ("captions", "caption_ids"):
            lists = take_rows(self._column(name), order).combine_chunks()
            ends = starts_of(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
            offsets = pa.array(ends[starts].astype(np.int32))
            columns[name] = pa.chunked_array([pa.ListArray.from_arrays(offsets, lists.flatten())])
        rows = np.split(order, starts[1:-1])
        if "names" in columns:
            columns["names"] = _merged_names(self.values("names"), rows, columns["names"].type)
        for name in {"group", "family"} & columns.keys():
            columns[name] = _common(self.values(name), rows, columns[name].type)
        return self._with(Dataset(pa.table(columns)), None, self.contents.take(firsts))

    @classmethod
    def concat(cls, tables: Sequence["PairTable"], *, keep_first: bool = False) -> "PairTable":
        """Several tables as one. Ids of two or more are made distinct by hashing them with the name of their source.

        A column that only some tables have is null in the rows of the others.

        Args:
            tables: at least one.
            keep_first: leave the ids of the first table as they are.

        Raises:
            DataError: no tables, or two of one name.
        """
        names = [table.name for table in tables]
        if len(set(names)) < len(names) or not tables:
            raise DataError(f"cannot concatenate the tables {names}; give at least one, and each a name of its own")
        if len(tables) == 1:
            return tables[0]
        kept, hashed = (tables[:1], tables[1:]) if keep_first else ([], tables)
        parts = [table._stored for table in kept] + [_with_distinct_ids(table._stored, table.name) for table in hashed]
        stored = concatenate_datasets(parts)
        starts = np.cumsum([0, *(len(table._stored) for table in tables)])
        chosen = np.concatenate([start + table._positions() for start, table in zip(starts, tables, strict=False)])
        skipped = [(f"{table.name}: {where}", why) for table in tables for where, why in table.skipped]
        whole = len(chosen) == len(stored) and all(table._chosen is None for table in tables)
        origins = {origin for table in tables for origin in table.split_origins}
        images = stored.select_columns(["image"]).with_format("arrow")[:].column("image")
        contents = Contents.concat([table._same.contents for table in (*kept, *hashed)], images)
        return cls(
            stored,
            "+".join(names),
            skipped,
            chosen=None if whole else chosen,
            split_origins=origins,
            contents=contents,
            cased=any(table.cased for table in tables),
        )

    def _with(self, stored: Dataset, chosen: NDArray[np.int64] | None, contents: Contents | None = None) -> "PairTable":
        table = PairTable(
            stored,
            self.name,
            self.skipped,
            chosen=chosen,
            split_origins=self.split_origins,
            contents=contents,
            cased=self.cased,
        )
        if stored is self._stored:
            table._same = self._same
        return table

    def _positions(self) -> NDArray[np.int64]:
        return np.arange(len(self)) if self._chosen is None else self._chosen

    def _column(self, name: str) -> Any:
        """One column as an Arrow array [N]."""
        return self._chosen_of(self._stored_column(name))

    def _image_field(self, name: str) -> Any:
        """A field of the image column as an Arrow array [N]; the bytes of other rows are not touched."""
        return self._chosen_of(pc.struct_field(self._stored_column("image"), name))

    def _blocks(self, name: str) -> Iterator[pa.ChunkedArray]:
        """A column, so many rows at a time."""
        column = self._stored_column(name)
        if self._chosen is None:
            return (column.slice(start, BLOCK) for start in range(0, len(self), BLOCK))
        return blocks_of_rows(column, self._chosen, BLOCK)

    def _stored_column(self, name: str) -> Any:
        return self._stored.select_columns([name]).with_format("arrow")[:].column(name)

    def _chosen_of(self, column: Any) -> Any:
        return column if self._chosen is None else take_rows(column, self._chosen)


def _lists(column: pa.ListArray) -> Iterator[list[Any] | None]:
    """The lists of a column; Arrow makes them value by value, in ten times the time."""
    values = pc.list_flatten(column).to_pylist()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0)).tolist()
    places = zip([0, *ends[:-1]], ends, pc.is_valid(column).to_pylist(), strict=True)
    return (values[start:end] if known else None for start, end, known in places)


def _at_once(name: str) -> int:
    """How many values of a column may be taken at once."""
    return IMAGES if name == "image" else BLOCK


class _Same:
    """Which of some stored rows show one picture; all tables that are selected from them share it.

    Args:
        rows: the rows.
        contents: what lies behind their pictures; None for what the rows themselves say.
    """

    def __init__(self, rows: Dataset, contents: Contents | None) -> None:
        self._rows = rows
        self._contents = contents

    @cached_property
    def contents(self) -> Contents:
        """What lies behind their pictures."""
        return self._contents or Contents.of_places(self._column("image"))

    @property
    def ids(self) -> NDArray[np.int64]:
        """Image id of each row [S]."""
        return np.asarray(self._column("image_id").to_numpy(), np.int64)

    @cached_property
    def pictures(self) -> NDArray[np.int64]:
        """A number for the picture of each row [S]."""
        return self.contents.pictures(self.ids)

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._rows.select_columns([name]).with_format("arrow")[:].column(name)


def _lists_of_one(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each value as a list; nothing is copied."""
    lists = [
        pa.ListArray.from_arrays(pa.array(np.arange(len(part) + 1, dtype=np.int32)), part) for part in values.chunks
    ]
    return pa.chunked_array(lists, pa.list_(values.type))


def _merged_names(names: list[list[str] | None], rows: Sequence[NDArray[np.int64]], kind: pa.DataType) -> Any:
    """The names of the rows of each picture together; None where none of them has any."""
    merged = [list(dict.fromkeys(name for row in some for name in names[row] or ())) or None for some in rows]
    return pa.chunked_array([pa.array(merged, kind)])


def _common(labels: list[str | None], rows: Sequence[NDArray[np.int64]], kind: pa.DataType) -> Any:
    """The label that all rows of a picture have; None where they differ."""
    found = [{labels[row] for row in some} for some in rows]
    return pa.chunked_array([pa.array([next(iter(some)) if len(some) == 1 else None for some in found], kind)])


def _with_distinct_ids(rows: Dataset, source: str) -> Dataset:
    """The rows with all ids hashed together with the name of their source."""
    salt = stable_hash("source", source)
    ids = rows.select_columns(["image_id", "caption_ids"]).with_format("arrow")[:]
    lists = ids["caption_ids"].combine_chunks()
    offsets = starts_of(pc.list_value_length(lists).to_numpy()).astype(np.int32)
    hashed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(hash_ids(lists.flatten().to_numpy(), salt)))
    columns = pa.table({"image_id": hash_ids(ids["image_id"].to_numpy(), salt), "caption_ids": hashed})
    return concatenate_datasets([rows.remove_columns(columns.column_names), Dataset(columns)], axis=1)


def hash_ids(ids: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Mix ids [N] with a salt to 63 bits [N]; one to one but for the last shift."""
    mixed = splitmix64(torch.from_numpy(ids.astype(np.int64)) + salt).numpy()
    return (mixed.view(np.uint64) >> np.uint64(1)).astype(np.int64)
