"""Vectors of all pictures and captions of a source, on disk; a command that was killed goes on where it was."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from truepair.checked import checksum, read_checked_json, require_whole, write_checked_json
from truepair.data.identity import contradictions
from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError
from truepair.files import discard, one_line_errors, remove_folder, writing_file
from truepair.models.open import model_folder
from truepair.settings import Natural, Positive, Within, check_settings
from truepair.tasks.retriever import EncodedPart, Retriever, Vectors
from truepair.tasks.vectors import (
    CAPTION,
    COLUMNS,
    IMAGE,
    Origin,
    StoredVectors,
    VectorFiles,
    read_origin,
    replace_vectors,
)

Say = Callable[[str], None]
"""Prints a line."""

Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""From a label to a context with a bar; it yields what to call with (done, all)."""

_ROWS_AT_ONCE = 16_384


FileCount = Annotated[int, Within(1, 99_999)]  # which five digits of a file's name can tell


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What becomes vectors, and where they go.

    Attributes:
        data: the pairs; ``data.source`` is the word after the model.
        output: a .parquet file, or a .npy file with its columns in a .ids.parquet file beside it.
        what: "images", "captions" or "both". Pictures that have no captions are left out but of "images".
        identity: which rows show one picture, which has one vector: "bytes", "file" or "id", see ``data.identity``.
        dtype: of the vectors on disk: "float32", or "float16" for half the space and three digits.
        shards: spread them over so many files, vectors-00000-of-00008.parquet and so on.
        faiss: file for an exact inner-product index of all vectors, in the order of their rows; needs memory for all of
            them.
        batch_size: pictures that the model reads at once.
        workers: processes that read and resize pictures; 0 for none beside this one.
        save_every: pictures or texts after which what is done is saved; a killed command loses no more.
        overwrite: replace finished vectors of another model, source or setting.
    """

    data: SourceConfig
    output: str
    what: Literal["images", "captions", "both"] = "both"
    identity: str = "bytes"
    dtype: Literal["float32", "float16"] = "float32"
    shards: FileCount = 1
    faiss: str | None = None
    batch_size: Positive = 64
    workers: Natural = 2
    save_every: Positive = 1024
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_settings(self)


def embed(model: str | Path, config: EmbedConfig, say: Say, count: Counting) -> None:
    """Write the vectors of the pictures and captions of a source; nothing is done twice.

    Args:
        model: as :meth:`Retriever.load` takes it.
        config: the source and the output.
        say: prints a line.
        count: a label to a context that shows a bar, such as ``counting``.

    Raises:
        CheckpointError: there is no such model.
        DataError: the source cannot be read, none of its pictures can, or the disk refuses.
        ConfigError: the output holds other vectors.
    """
    files = VectorFiles(Path(config.output), config.shards)
    table = open_pairs(config.data, identity=config.identity, captionless=config.what == "images")
    items = SourceItems(table)
    retriever = Retriever.load(model, say=say)
    source = asdict(config.data)
    if config.data.path.exists():
        source["source"] = str(config.data.path.absolute())
    origin = Origin(
        model=_absolute(model_folder(model)),
        model_key=retriever.fingerprint,
        source=source,
        source_key=items.key,
        what=config.what,
        dtype=config.dtype,
        batch_size=config.batch_size,
        save_every=config.save_every,
    )
    finished = _is_finished(files, origin, config.overwrite)
    left_out = LeftOut(say, None if finished else files.output.with_suffix(f".{SKIPPED}"))
    left_out.rows(table)
    for line in contradictions(table):
        say(line)
    if finished:
        say(f"{files.paths[0]} holds these vectors already; nothing is left to do")
    else:
        _make(retriever, items, config, files, origin, left_out, count)
    if config.faiss is not None:
        _write_index(Path(config.faiss), files, say)


def _make(
    retriever: Retriever,
    items: "SourceItems",
    config: EmbedConfig,
    files: VectorFiles,
    origin: Origin,
    left_out: LeftOut,
    count: Counting,
) -> None:
    """Make the vectors, part by part, and write their files."""
    work = Work(files.output.with_name(f".{files.output.name}.parts"), origin, left_out.say)
    encoded: dict[str, Parts] = {}
    if config.what != "captions":
        encoded[IMAGE] = _embed_images(retriever, items, config, work, count)
    if config.what != "images":
        encoded[CAPTION] = _embed_captions(retriever, items, config, work, count, left_out)
    _assemble(items, encoded, files, origin, retriever.embed_dim, left_out)
    work.remove()


class SourceItems:
    """The distinct pictures and captions of a table: one picture in several rows is embedded once, and so is a text.

    Rows show one picture as they do everywhere: by id, by file, by bytes. It goes by the id of its first row.

    Args:
        table: the pairs.

    Attributes:
        table: the pairs.
        image_rows: the first row of each picture [I].
        texts: the distinct caption texts, in the order of their rows.
    """

    def __init__(self, table: PairTable) -> None:
        self.table = table
        _, first = np.unique(table.pictures, return_index=True)
        self.image_rows: NDArray[np.int64] = np.sort(first).astype(np.int64)
        self._ids: list[int] = table.image_ids.tolist()
        self._pictures: list[int] = table.pictures.tolist()
        self._splits: list[str] = table.values("split")
        self._captions: list[list[str]] = table.values("captions")
        self.texts = list(dict.fromkeys(text for captions in self._captions for text in captions))

    @cached_property
    def key(self) -> str:
        """Equal keys, equal pictures and captions: of ids, texts and splits, and of names, sizes and times of files."""
        state = blake2b(digest_size=16)
        table = self.table
        state.update(table.pictures.tobytes())
        for name in ("image_id", "captions", "caption_ids", "split"):
            state.update(json.dumps(table.values(name)).encode())
        for stored in table.rows.cache_files:  # the name tells the files that the source was read from
            state.update(Path(stored["filename"]).parent.name.encode())
        for path in sorted({path for path, _, _ in self._cells if path is not None}):
            try:
                found = Path(path).stat()
            except OSError:  # such a picture is left out, and named
                state.update(f"{path} is missing".encode("utf-8", "surrogateescape"))
            else:
                state.update(f"{path} {found.st_size} {found.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def pictures(self, start: int, stop: int) -> "StoredPictures":
        """The image cells of some pictures."""
        return StoredPictures(self.table.rows.select_columns(["image"]), self.image_rows[start:stop])

    def columns(self, encoded: "Mapping[str, Parts]") -> tuple[pa.Table, NDArray[np.int64]]:
        """The rows of the vectors' file, and the number of the vector of each among all that were made.

        Args:
            encoded: of pictures and of texts, whichever were asked for; those of pictures are numbered first.
        """
        rows: Iterator[tuple[dict[str, Any], int]] = iter(())
        first = 0
        if IMAGE in encoded:
            rows, first = self._image_rows(encoded[IMAGE]), encoded[IMAGE].vectors
        if CAPTION in encoded:
            rows = chain(rows, self._caption_rows(first))
        blocks, numbers = [COLUMNS.empty_table()], []
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            blocks.append(pa.Table.from_pylist([row for row, _ in block], schema=COLUMNS))
            numbers += [number for _, number in block]
        return pa.concat_tables(blocks), np.asarray(numbers, np.int64)

    def _image_rows(self, parts: "Parts") -> Iterator[tuple[dict[str, Any], int]]:
        """Row and number of the vector of each picture that could be read."""
        captions: dict[int, dict[str, None]] = {}
        for picture, of_row in zip(self._pictures, self._captions, strict=True):
            captions.setdefault(picture, {}).update(dict.fromkeys(of_row))
        number = 0
        for item, row in enumerate(self.image_rows.tolist()):
            if item not in parts.unreadable:
                yield self._row(IMAGE, row, row, None, list(captions[self._pictures[row]])), number
                number += 1

    def _caption_rows(self, first: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Row and number of the vector of each caption; ``first`` is that of the first text."""
        places = {text: first + number for number, text in enumerate(self.texts)}
        owners = {self._pictures[row]: row for row in self.image_rows.tolist()}
        seen: set[int] = set()
        for row, (texts, caption_ids) in enumerate(zip(self._captions, self.table.values("caption_ids"), strict=True)):
            for text, caption in zip(texts, caption_ids, strict=True):
                if caption not in seen:  # an image in several rows may have its captions in each
                    seen.add(caption)
                    yield self._row(CAPTION, owners[self._pictures[row]], row, caption, [text]), places[text]

    def _row(self, kind: str, image_row: int, row: int, caption: int | None, captions: list[str]) -> dict[str, Any]:
        path, offset, size = self._cells[image_row]
        return {
            "kind": kind,
            "image_id": self._ids[image_row],
            "caption_id": caption,
            "row": image_row,
            "split": self._splits[row],
            "path": path,
            "offset": offset,
            "size": size,
            "captions": captions,
        }

    @cached_property
    def _cells(self) -> list[tuple[str | None, int | None, int | None]]:
        """Path, offset and size of the image of each row, with a path that holds anywhere; embedded ones have none."""
        cells: list[tuple[str | None, int | None, int | None]] = []
        column = self.table.rows.select_columns(["image"]).with_format("arrow")
        for start in range(0, len(self.table), _ROWS_AT_ONCE):
            images = column[start : start + _ROWS_AT_ONCE].column("image").combine_chunks()
            embedded = pc.is_valid(images.field("bytes")).to_pylist()
            parts = zip(*(images.field(name).to_pylist() for name in ("path", "offset", "size")), strict=True)
            for inside, (path, offset, size) in zip(embedded, parts, strict=True):
                lies_inside = inside or path is None
                cells.append((None, None, None) if lies_inside else (str(Path(path).absolute()), offset, size))
        return cells


class StoredPictures(Sequence[dict[str, Any]]):
    """The image cells of some rows, read when they are asked for.

    Args:
        images: the column of all image cells.
        rows: which of them, int64 [R].
    """

    def __init__(self, images: Dataset, rows: NDArray[np.int64]) -> None:
        self._images = images
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._images[int(self._rows[place])]["image"]


@dataclass(frozen=True)
class Parts:
    """Vectors of one kind, in the files of finished parts.

    Attributes:
        arrays: vectors of each part [R, E], on disk.
        unreadable: number of a picture among all -> why it has no vector.
        items: how many pictures or texts were asked for.
    """

    arrays: list[NDArray[np.floating]]
    unreadable: dict[int, str]
    items: int

    @property
    def vectors(self) -> int:
        """How many vectors there are."""
        return sum(map(len, self.arrays))


class Work:
    """What is done so far, in a folder beside the output; parts are whole or not there.

    Args:
        folder: the folder.
        origin: what the vectors are made of; parts of other origins are removed.
        say: prints a line.
    """

    def __init__(self, folder: Path, origin: Origin, say: Say) -> None:
        self.folder = folder
        self._say = say
        self._file = folder / "origin.json"
        before = self._before()
        difference = None if before is None else origin.difference(before)
        if difference is not None:
            say(f"an earlier call was stopped, but {difference}: the vectors are made anew")
        if difference is not None or (before is None and os.path.lexists(folder)):
            with one_line_errors(folder, DataError, "remove it"):
                remove_folder(folder)
        if before is not None and difference is None:
            say(f"going on with what an earlier call left: {len(list(folder.glob('*.npy'))):,} parts are done")
        else:
            with one_line_errors(self._file, DataError, "free some space, or choose another place"):
                write_checked_json(self._file, asdict(origin))

    def part(self, name: str, make: Callable[[], EncodedPart], dtype: str) -> tuple[NDArray[np.floating], list[Any]]:
        """The vectors of a part and what could not be read; made if they are not there.

        A part with pictures that could not be read is made again: they may be there now.
        """
        vectors, facts = self.folder / f"{name}.npy", self.folder / f"{name}.json"
        try:
            told = read_checked_json(facts)
            require_whole(vectors, told["size"], told["vectors"])
        except FileNotFoundError:
            told = None
        except (OSError, ValueError) as error:
            self._say(f"part {name} of an earlier call is damaged ({error}), and is made again")
            told = None
        if told is None or told["unreadable"]:
            made = make()
            for place in (vectors, facts):
                if place.is_dir():
                    discard(place)
            with writing_file(vectors) as file:
                np.save(file, made.vectors.astype(dtype))
            told = {"unreadable": made.unreadable, "size": vectors.stat().st_size, "vectors": checksum(vectors)}
            with one_line_errors(facts, DataError, "free some space, or choose another place"):
                write_checked_json(facts, told)  # last: it says that both are there
        return np.load(vectors, mmap_mode="r", allow_pickle=False), told["unreadable"]

    def remove(self) -> None:
        """Remove the folder, when all is written."""
        remove_folder(self.folder)

    def _before(self) -> Origin | None:
        """What an earlier call made vectors of."""
        try:
            return Origin(**read_checked_json(self._file))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            self._say(f"what an earlier call left in {self.folder} is damaged ({error}): the vectors are made anew")
            return None


def _embed_images(retriever: Retriever, items: SourceItems, config: EmbedConfig, work: Work, count: Counting) -> Parts:
    """The vectors of all pictures.

    Raises:
        DataError: none of them can be read.
    """
    total = len(items.image_rows)
    parts = Parts([], {}, total)
    with count("pictures") as show:
        for start in range(0, total, config.save_every):

            def make(start: int = start) -> EncodedPart:
                """Read and encode the pictures of one part."""
                pictures = items.pictures(start, start + config.save_every)
                batches = retriever.image_parts(pictures, batch_size=config.batch_size, workers=config.workers)
                return _whole(batches, lambda done: show(start + done, total))

            vectors, unreadable = work.part(f"images-{start // config.save_every:06}", make, config.dtype)
            parts.arrays.append(vectors)
            parts.unreadable.update({start + place: why for place, why in unreadable})
            show(min(start + config.save_every, total), total)
            if parts.unreadable and not parts.vectors:
                raise DataError(
                    f"none of the first {len(parts.unreadable):,} pictures can be read; the first: "
                    f"{next(iter(parts.unreadable.values()))}"
                )
    return parts


def _embed_captions(
    retriever: Retriever, items: SourceItems, config: EmbedConfig, work: Work, count: Counting, left_out: LeftOut
) -> Parts:
    """The vectors of all distinct texts."""
    texts = items.texts
    cut = dict.fromkeys(retriever.cut_texts(texts))
    left_out.cut(items.table.name, texts, cut, retriever.preprocessing.max_length)
    parts = Parts([], {}, len(texts))
    with count("captions") as show:
        for start in range(0, len(texts), config.save_every):
            part = texts[start : start + config.save_every]

            def make(part: list[str] = part) -> EncodedPart:
                """Encode the texts of one part."""
                return EncodedPart(retriever.encode_texts(part), [], len(part))

            vectors, _ = work.part(f"captions-{start // config.save_every:06}", make, config.dtype)
            parts.arrays.append(vectors)
            show(start + len(part), len(texts))
    return parts


def _whole(batches: Iterator[EncodedPart], show: Callable[[int], None]) -> EncodedPart:
    """Batches as one part."""
    vectors: list[Vectors] = []
    unreadable: list[tuple[int, str]] = []
    for batch in batches:
        vectors.append(batch.vectors)
        unreadable += batch.unreadable
        show(batch.done)
    return EncodedPart(np.concatenate(vectors), unreadable, batch.done)


def _assemble(
    items: SourceItems, encoded: Mapping[str, Parts], files: VectorFiles, origin: Origin, width: int, left_out: LeftOut
) -> None:
    """Write the files of parts that are complete, and say what they hold."""
    columns, numbers = items.columns(encoded)
    arrays = _Arrays([array for parts in encoded.values() for array in parts.arrays])
    # What is there is of other settings, and the caller has allowed it.
    replace_vectors(files, columns, lambda rows: arrays.take(numbers[rows]), origin, width)
    unreadable = encoded[IMAGE].unreadable if IMAGE in encoded else {}
    rows = {int(items.image_rows[number]): why for number, why in unreadable.items()}
    left_out.pictures(items.table, rows)
    images = encoded[IMAGE].vectors if IMAGE in encoded else 0
    repeated = len(items.table) - len(items.image_rows)
    if images and repeated:
        left_out.merged(items.table, len(items.image_rows))
    where = str(files.paths[0]) if files.shards == 1 else f"{files.paths[0]} and {files.shards - 1} more"
    left_out.say(
        f"vectors of {images:,} pictures and {len(columns) - images:,} captions, {width} numbers each: {where}"
    )


class _Arrays:
    """Arrays of vectors under one numbering."""

    def __init__(self, arrays: Sequence[NDArray[np.floating]]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.floating]:
        """The vectors of some numbers [R, E]."""
        taken = np.empty((len(numbers), self._arrays[0].shape[1]), self._arrays[0].dtype)
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        for part in np.unique(which):
            here = which == part
            taken[here] = self._arrays[part][numbers[here] - self._starts[part]]
        return taken


def _write_index(file: Path, files: VectorFiles, say: Say) -> None:
    """Write an exact index of all vectors, in the order of their rows."""
    stored = StoredVectors.open(files.output).vectors
    index = faiss.IndexFlatIP(stored.shape[1])
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        index.add(stored[start : start + _ROWS_AT_ONCE].astype(np.float32))
    with writing_file(file) as stream:
        faiss.write_index(index, stream.name)
    say(f"an index for faiss, whose numbers are the rows of the vectors: {file}")


def _is_finished(files: VectorFiles, origin: Origin, overwrite: bool) -> bool:
    """Whether the vectors are there.

    Raises:
        ConfigError: others are there.
    """
    sets = VectorFiles.sets(files.output)
    if not sets:
        return False
    there = VectorFiles(files.output, sets[0])
    complete = [path for path in there.all_paths if path.is_file()]
    if sets == [files.shards] and len(complete) < len(there.all_paths):
        return False  # a call was stopped while it wrote them
    try:
        difference = origin.difference(read_origin(complete[0]))
    except DataError as error:
        difference = str(error)
    if difference is None and sets != [files.shards]:
        difference = f"shards was {sets[0]}, now it is {files.shards}"
    if difference is not None and not overwrite:
        raise ConfigError(
            f"{complete[0]} is there, but {difference}; give another output, or --overwrite true to replace it"
        )
    return difference is None


def _absolute(model: str | Path) -> str:
    """A folder by a path that holds anywhere; a name as it is."""
    return str(Path(model).absolute()) if Path(model).exists() else str(model)
