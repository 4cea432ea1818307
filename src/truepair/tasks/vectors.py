"""Files of vectors: Parquet, or NumPy with a Parquet file of the columns beside it; whole or in shards."""

import glob
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from truepair.data.images import BadImageError, load_image
from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError, TruepairError
from truepair.files import by_final_name, discard, one_line_errors, sync, writing_file

SUFFIXES = (".parquet", ".npy")

COLUMNS = pa.schema(
    [
        pa.field("kind", pa.string()),  # "image" or "caption"
        pa.field("image_id", pa.int64()),
        pa.field("caption_id", pa.int64()),  # null for pictures
        pa.field("row", pa.int64()),  # of the source, where the picture comes first
        pa.field("split", pa.string()),
        pa.field("path", pa.string()),  # null for pictures inside the source
        pa.field("offset", pa.int64()),  # of a picture inside the file of that path, with its size in bytes
        pa.field("size", pa.int64()),
        pa.field("captions", pa.list_(pa.string())),  # all of a picture; of a caption itself alone
    ]
)
"""What stands beside each vector."""

IMAGE, CAPTION = "image", "caption"

_KEY = b"truepair"

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<all>\d{5})")

_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Origin:
    """What vectors were made of; it stands in the metadata of their file.

    Attributes:
        model: folder or name, as it was given.
        model_key: fingerprint of the model; vectors are comparable when these are equal.
        source: fields of the ``SourceConfig``.
        source_key: fingerprint of the source's rows and files.
        what: "images", "captions" or "both".
        dtype: "float32" or "float16".
        batch_size: pictures encoded at once; the last bits of a vector depend on it.
        save_every: pictures or texts between two savings, which bound a batch as well.
    """

    model: str
    model_key: str
    source: dict[str, Any]
    source_key: str
    what: str
    dtype: str
    batch_size: int
    save_every: int

    def difference(self, other: "Origin") -> str | None:
        """In words, what makes other vectors of these origins; None if they are the same to the last bit."""
        if self.model_key != other.model_key:
            return f"the model is another ({other.model} then, {self.model} now)"
        if self.source_key != other.source_key:
            return f"the source has changed ({other.source['source']} then, {self.source['source']} now)"
        for name in ("what", "dtype", "batch_size", "save_every"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} was {getattr(other, name)}, now it is {getattr(self, name)}"
        return None


@dataclass(frozen=True)
class VectorFiles:
    """The files that hold vectors.

    Attributes:
        output: the name that was given, which ends in .parquet or .npy.
        shards: how many files the vectors are spread over.
    """

    output: Path
    shards: int = 1

    def __post_init__(self) -> None:
        if self.output.suffix not in SUFFIXES:
            raise ConfigError(f"{self.output} ends in neither {' nor '.join(SUFFIXES)}; name a file of vectors")
        if not 1 <= self.shards < 100_000:
            raise ConfigError(f"shards is {self.shards}; give 1 to 99999")

    @classmethod
    def find(cls, output: Path) -> Self:
        """The files under a name that was given to ``truepair embed``, or under that of one of the shards.

        Raises:
            DataError: there are none, some are missing, or there are several sets.
        """
        shard = _SHARD.fullmatch(output.stem)
        if shard is not None:
            output = output.with_name(shard["stem"] + output.suffix)
        if output.suffix not in SUFFIXES:
            raise DataError(f"{output} ends in neither {' nor '.join(SUFFIXES)}; give what 'truepair embed' wrote")
        sets = cls.sets(output)
        if not sets:
            raise DataError(f"there is no {output}, whole or in shards; make it with 'truepair embed'")
        if len(sets) > 1:
            raise DataError(f"there are several sets of {output} ({sets} files); remove all but one")
        found = cls(output, sets[0])
        missing = [path for path in found.all_paths if not path.is_file()]
        if missing:
            raise DataError(f"{missing[0]} is missing; run 'truepair embed' again")
        return found

    @staticmethod
    def sets(output: Path) -> list[int]:
        """How many files the sets have that lie under a name, whether they are complete or not."""
        counts = {1} if output.is_file() else set()
        for path in output.parent.glob(f"{glob.escape(output.stem)}-*-of-*{output.suffix}"):
            shard = _SHARD.fullmatch(path.stem)
            if shard is not None and shard["stem"] == output.stem:
                counts.add(int(shard["all"]))
        return sorted(counts)

    @property
    def paths(self) -> list[Path]:
        """The files that hold the vectors, in order."""
        if self.shards == 1:
            return [self.output]
        stem, suffix = self.output.stem, self.output.suffix
        return [
            self.output.with_name(f"{stem}-{number:05}-of-{self.shards:05}{suffix}") for number in range(self.shards)
        ]

    @property
    def all_paths(self) -> list[Path]:
        """The same and, of .npy files, those of the columns."""
        return list(dict.fromkeys(path for vectors in self.paths for path in (vectors, columns_path(vectors))))

    def remove(self) -> None:
        """Remove all of them that are there."""
        for path in self.all_paths:
            path.unlink(missing_ok=True)


def columns_path(vectors: Path) -> Path:
    """The Parquet file with the columns of a file of vectors: itself, or the one beside a .npy."""
    return vectors if vectors.suffix == ".parquet" else vectors.with_suffix(".ids.parquet")


def replace_vectors(
    files: VectorFiles,
    columns: pa.Table,
    vectors: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    origin: Origin,
    width: int,
) -> None:
    """Write all files aside; once they are whole, they take the place of every set under their name.

    Until then a former set stays, which takes its room on the disk a second time. A call that is killed in the moment
    of the change leaves no set, or one with files missing, which the next call writes again.

    Args:
        files: their names.
        columns: as for :func:`write_vectors`.
        vectors: as there.
        origin: as there.
        width: as there.

    Raises:
        DataError: the disk refuses; a former set stays.
    """
    folder = files.output.with_name(f".{files.output.name}.partial")
    aside = VectorFiles(folder / files.output.name, files.shards)
    advice = "free some space, or choose another place"
    discard(folder)
    try:
        with by_final_name(folder, files.output.parent), one_line_errors(files.output, DataError, advice):
            write_vectors(aside, columns, vectors, origin, width)
            for shards in VectorFiles.sets(files.output):
                VectorFiles(files.output, shards).remove()
            for written, final in zip(_columns_first(aside), _columns_first(files), strict=True):
                written.replace(final)
            sync(files.output.parent)
    finally:
        discard(folder)


def _columns_first(files: VectorFiles) -> list[Path]:
    """All paths, those of columns first: the file of the vectors says that both are there."""
    return sorted(files.all_paths, key=lambda path: path in files.paths)


def write_vectors(
    files: VectorFiles,
    columns: pa.Table,
    vectors: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    origin: Origin,
    width: int,
) -> None:
    """Write all files; each is there as a whole or not at all.

    Args:
        files: their names.
        columns: what stands beside the vectors, N rows of :data:`COLUMNS`.
        vectors: numbers of rows, int64 [R], to their vectors [R, E] in the type that is written.
        origin: what they were made of.
        width: E.

    Raises:
        DataError: the disk refuses.
    """
    bounds = np.linspace(0, len(columns), files.shards + 1).astype(np.int64)
    for path, start, stop in zip(files.paths, bounds[:-1], bounds[1:], strict=True):
        part = _Part(columns, vectors, range(int(start), int(stop)), np.dtype(origin.dtype), width)
        metadata = {_KEY: json.dumps(asdict(origin), sort_keys=True).encode()}
        if path.suffix == ".npy":  # the columns first: the vectors' file says that both are there
            part.write_columns(columns_path(path), metadata)
            part.write_array(path)
        else:
            part.write_parquet(path, metadata)


@dataclass(frozen=True)
class _Part:
    """The rows of one file."""

    columns: pa.Table
    vectors: Callable[[NDArray[np.int64]], NDArray[np.floating]]
    rows: range
    dtype: np.dtype[Any]
    width: int

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Row numbers, a block at a time."""
        for start in range(self.rows.start, self.rows.stop, _ROWS_AT_ONCE):
            yield np.arange(start, min(start + _ROWS_AT_ONCE, self.rows.stop))

    def write_parquet(self, path: Path, metadata: dict[bytes, bytes]) -> None:
        """Columns and vectors, in row groups."""
        kind = pa.list_(pa.from_numpy_dtype(self.dtype), self.width)
        schema = COLUMNS.append(pa.field("vector", kind)).with_metadata(metadata)
        # Captions and vectors hardly repeat: a dictionary of them is built in vain.
        repeating = [name for name in COLUMNS.names if name != "captions"]
        with writing_file(path) as file, pq.ParquetWriter(file, schema, use_dictionary=repeating) as writer:
            for rows in self.blocks():
                values = np.ascontiguousarray(self.vectors(rows), self.dtype)
                array = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
                block = self.columns.slice(rows[0], len(rows)).cast(COLUMNS)
                writer.write_table(block.append_column(schema.field("vector"), array).cast(schema))

    def write_columns(self, path: Path, metadata: dict[bytes, bytes]) -> None:
        """The columns alone."""
        with writing_file(path) as file:
            part = self.columns.slice(self.rows.start, len(self.rows)).cast(COLUMNS)
            pq.write_table(part.replace_schema_metadata(metadata), file)

    def write_array(self, path: Path) -> None:
        """The vectors alone, as ``numpy.load`` reads them."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        with writing_file(path) as file:
            np.lib.format.write_array_header_1_0(file, header | {"shape": (len(self.rows), self.width)})
            for rows in self.blocks():
                file.write(np.ascontiguousarray(self.vectors(rows), self.dtype).tobytes())


def read_origin(path: Path) -> Origin:
    """What the vectors of one file were made of.

    Raises:
        DataError: it is no file of vectors.
    """
    try:
        metadata = pq.read_schema(columns_path(path)).metadata or {}
        return Origin(**json.loads(metadata[_KEY]))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no file of vectors ({_one_line(error)}); give what 'truepair embed' wrote"
        ) from None


class StoredVectors:
    """Vectors from disk, with what stands beside them.

    Attributes:
        columns: N rows of :data:`COLUMNS`.
        vectors: L2-normalised [N, E], float32 or float16.
        origin: what they were made of.
    """

    def __init__(self, columns: pa.Table, vectors: NDArray[np.floating], origin: Origin) -> None:
        self.columns = columns
        self.vectors = vectors
        self.origin = origin

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a file of vectors, or all of its shards.

        Raises:
            DataError: there are none, they do not belong together, or they are damaged.
        """
        paths = VectorFiles.find(Path(path)).paths
        origins = [read_origin(part) for part in paths]
        for part, origin in zip(paths, origins, strict=True):
            difference = origin.difference(origins[0])
            if difference is not None:
                raise DataError(f"{part} does not belong to {paths[0]}: {difference}; embed again")
        try:
            columns = [pq.read_table(columns_path(part), columns=COLUMNS.names) for part in paths]
            vectors = [_read_vectors(part) for part in paths]
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise DataError(f"{path} is damaged ({_one_line(error)}); embed again") from None
        return cls(pa.concat_tables(columns), vectors[0] if len(vectors) == 1 else np.concatenate(vectors), origins[0])

    def require_model(self, fingerprint: str, model: str) -> None:
        """Refuse vectors of another model.

        Args:
            fingerprint: of the model that asks.
            model: its name, for the message.

        Raises:
            DataError: they are of another one.
        """
        if fingerprint != self.origin.model_key:
            raise DataError(
                f"the vectors were made by another model ({self.origin.model}) than {model}, and are not comparable; "
                "search with that one, or embed again"
            )

    def places_of(self, kind: str) -> NDArray[np.int64]:
        """The rows of all pictures ("image"), or of the first caption of each text ("caption"), [M]."""
        places = np.flatnonzero(pc.equal(self.columns["kind"], kind).to_numpy())
        if kind == IMAGE:
            return places
        texts = pc.list_flatten(self.columns["captions"].take(pa.array(places))).to_pylist()
        first = dict(zip(reversed(texts), reversed(places.tolist()), strict=True))
        return np.sort(np.asarray(list(first.values()), np.int64))

    def about(self, place: int) -> dict[str, Any]:
        """What stands beside a vector."""
        row: dict[str, Any] = self.columns.slice(place, 1).to_pylist()[0]
        return row

    def picture(self, place: int) -> Image.Image:
        """The image of a row, or that a caption belongs to, 8-bit RGB.

        Raises:
            BadImageError: it cannot be read any more.
        """
        row = self.about(place)
        if row["path"] is not None:
            return load_image({name: row[name] for name in ("path", "offset", "size")})
        if self._source is None:
            raise BadImageError(
                f"the pictures are inside {self.origin.source['source']}, which cannot be read any more"
            )
        return self._source.image(row["row"])

    @cached_property
    def _source(self) -> PairTable | None:
        """The pairs that were embedded; None where they are gone or have changed."""
        try:
            source = open_pairs(SourceConfig(**self.origin.source))
        except TruepairError:
            return None
        return source if len(source) > int(np.max(self.columns["row"].to_numpy(), initial=-1)) else None


def _read_vectors(path: Path) -> NDArray[np.floating]:
    """The vectors of one file [N, E]; a .npy stays on disk until it is read."""
    if path.suffix == ".npy":
        array: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    column = pq.read_table(path, columns=["vector"]).column("vector")
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1) for chunk in column.chunks]
    return np.concatenate(chunks or [np.zeros((0, column.type.list_size), np.float32)])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def shown_path(row: dict[str, Any]) -> str:
    """Where a picture is, in words."""
    if row["path"] is None:
        return f"row {row['row']} of the source"
    return row["path"] if row["offset"] is None else f"{row['path']} at byte {row['offset']}"
