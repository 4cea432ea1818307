"""Rows of a table on their way to disk, and the paths of their images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.data.formats.record import LateFieldError, Reader, Record, Skips
from truepair.data.formats.trees import ARCHIVES
from truepair.data.source import SourceConfig
from truepair.errors import DataError
from truepair.randomness import stable_hash

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])

_COLUMNS = [
    pa.field("image", _IMAGE),
    pa.field("image_id", pa.int64()),
    pa.field("captions", pa.list_(pa.string())),
    pa.field("caption_ids", pa.list_(pa.int64())),
    pa.field("split", pa.string()),
    pa.field("group", pa.string()),
    pa.field("family", pa.string()),
    pa.field("names", pa.list_(pa.string())),
]

# A record batch is full with so many rows, or with images of so many bytes.
_BATCH_ROWS = 1000

_BATCH_BYTES = 32 << 20

_FIRST_PATHS = 16  # images that the root is found by


class _NoPathError(DataError):
    """What a row states as its image can be no path."""


STATED, NAMED, NONE = "stated", "named", "none"
"""Where the splits of rows are from: the rows state them, files or folders are named for them, or nothing says one."""


def write_rows(reader: Reader, config: SourceConfig, target: Path) -> tuple[Skips, set[str]]:
    """Read a source and write its checked rows as an Arrow stream.

    Args:
        reader: the source.
        config: how to read it.
        target: file to write.

    Returns:
        What was left out, and where the splits of the rows are from.

    Raises:
        DataError: the source cannot be read, or too much of it had to be left out.
    """
    while True:
        try:
            return _write_rows(reader, config, target)
        except LateFieldError:
            continue


def _write_rows(reader: Reader, config: SourceConfig, target: Path) -> tuple[Skips, set[str]]:
    skips = Skips(strict=config.on_bad == "error")
    origins: set[str] = set()
    for name in reader.extra:
        if not _is_unicode(name):
            raise DataError(f"{config.source}: the column {name!a:.80} has a name that is not UTF-8; give encoding")
    schema = pa.schema([*_COLUMNS, *(pa.field(name, pa.string()) for name in reader.extra)])
    count = 0
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in _batches(_rows(reader, config, skips, origins)):
            writer.write_batch(pa.RecordBatch.from_arrays(_arrays(batch, schema), schema=schema))
            count += len(batch)
    _check_enough(count, skips, config)
    return skips, origins


def _rows(reader: Reader, config: SourceConfig, skips: Skips, origins: set[str]) -> Iterator[dict[str, Any]]:
    records = reader.records(skips)
    first = list(islice(records, _FIRST_PATHS))
    stated = [(record.image_path, record.where) for record in first if record.image_path is not None]
    maker = _RowMaker(config, ImagePaths(config, reader.roots, stated), skips)
    path = config.path  # made once: a source may have millions of rows
    named = cache(lambda file: reader.named_split(path if file is None else file))
    for record in chain(first, records):
        row = maker.row(record)
        if row is None:
            continue
        if record.split is not None:
            row["split"] = record.split
            origins.add(STATED)
        else:
            by_name = named(record.file)
            row["split"] = by_name or "train"
            origins.add(NONE if by_name is None else NAMED)
        yield row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists, bounded in number and in image bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["image"].get("bytes") or b"")
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _arrays(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> list[pa.Array]:
    """The columns of some rows. Made field by field, an image cell costs a fifth of what Arrow takes for a mapping."""
    columns: dict[str, list[Any]] = {field.name: [row.get(field.name) for row in rows] for field in schema}
    cells = columns.pop("image")
    parts = [pa.array([cell.get(part.name) for cell in cells], part.type) for part in _IMAGE]
    images = pa.StructArray.from_arrays(parts, fields=list(_IMAGE))
    return [images, *(pa.array(column, schema.field(name).type) for name, column in columns.items())]


def _check_enough(count: int, skips: Skips, config: SourceConfig) -> None:
    if not count and not skips.rows:
        seen = "".join(f"; {where}: {why}" for where, why in skips.entries[:3])
        raise DataError(f"{config.source} holds no pairs; check the path and the format{seen}")
    most = config.most_skipped
    tolerated = max(1, most * (count + skips.rows)) if most else 0  # one bad row ends nothing
    if not count or skips.rows > tolerated:
        common, rows = skips.reasons.most_common(1)[0]
        where = next(where for where, why in skips.entries if why == common)
        others = "" if rows == skips.rows else f" (so are {rows} of them)"
        encoding = ", or give encoding" if "UTF-8" in common else ""
        raising = ", or raise max_skipped or data.max_bad_fraction" if count else ""
        raise DataError(
            f"{skips.rows} of {count + skips.rows} rows of {config.source} cannot be used, over max_skipped "
            f"({most:.1%}); repair them{raising}{encoding}; the first: {where}: {common}{others}"
        )


class _RowMaker:
    """Checks records and makes rows of them; what cannot be used goes to ``skips``.

    Args:
        config: the source.
        paths: resolves image paths.
        skips: where left-out rows and captions are listed.
    """

    def __init__(self, config: SourceConfig, paths: "ImagePaths", skips: Skips) -> None:
        self.config = config
        self.paths = paths
        self.skips = skips

    def row(self, record: Record) -> dict[str, Any] | None:
        """Make the row of a record, or None if it is left out.

        Raises:
            DataError: the image path leaves the root; or the row is left out, and ``on_bad`` says "error".
        """
        if record.problem:
            self.skips.row(record.where, record.problem)
            return None
        image = self._image(record)
        if image is None:
            return None
        stated = None if self.config.derive_ids else record.image_id
        image_id = self._id(stated) if stated is not None else stable_hash("image", record.key)
        captions = self._captions(record)
        if not captions:
            return None
        for name in ("split", "group", "family"):
            text = getattr(record, name)
            if text is not None and (not _is_unicode(text) or len(text) > self.config.max_caption_length):
                long = f"has {len(text)} characters, more than max_caption_length"
                self.skips.row(record.where, f"its {name} {long if _is_unicode(text) else 'is not UTF-8'}")
                return None
        ids = None if self.config.derive_ids else record.caption_ids
        if ids is not None and len(ids) != len(record.captions):
            why = f"it has {len(ids)} caption ids for {len(record.captions)} captions; repair them, or set derive_ids"
            self.skips.row(record.where, why)
            return None
        return {
            "image": image,
            "image_id": image_id,
            "captions": [text for _, text in captions],
            "caption_ids": self._caption_ids(ids, image_id, captions),
            "group": record.group,
            "family": record.family,
            "names": None if record.names is None else list(self._texts(record, record.names, "names")),
            **{name: text for name, text in record.extra.items() if list(self._texts(record, [text], name))},
        }

    def _texts(self, record: Record, values: Iterable[Any], name: str) -> Iterator[str]:
        """The values that are text, of a column that a row can do without."""
        for value in values:
            if not isinstance(value, str):
                self.skips.part(f"{record.where}, {name}", f"it is not text but {value!r:.40}")
            elif not _is_unicode(value):
                self.skips.part(f"{record.where}, {name}", "it is not UTF-8")
            else:
                yield value

    def _image(self, record: Record) -> dict[str, Any] | None:
        if record.image is not None:
            return record.image
        if record.image_path is None:
            self.skips.row(record.where, "it has no image")
        elif not _is_unicode(record.image_path):
            self.skips.row(record.where, "its image path is not UTF-8")
        else:
            try:
                return {"path": self.paths.resolve(record.image_path, record.where)}
            except _NoPathError as error:
                self.skips.row(record.where, str(error))
        return None

    def _captions(self, record: Record) -> list[tuple[int, str]]:
        """Usable captions with their position in the record."""
        good: list[tuple[int, str]] = []
        bad: list[tuple[int, str]] = []
        for position, stated in enumerate(record.captions):
            caption = str(stated) if self.config.labels and isinstance(stated, int) else stated
            problem = self._caption_problem(caption)
            if problem:
                bad.append((position, problem))
            else:
                good.append((position, caption.strip()))
        if not good:
            self.skips.row(record.where, bad[0][1] if bad else "it has no caption")
        else:
            for position, problem in bad:
                self.skips.part(f"{record.where}, caption {position + 1}", problem)
        return good

    def _caption_problem(self, caption: Any) -> str | None:
        if caption is None:
            return "its caption is empty"
        if not isinstance(caption, str):
            return f"its caption is not text but {caption!r:.40}"
        if not caption.strip():
            return "its caption is empty"
        if len(caption) > self.config.max_caption_length:
            return f"its caption has {len(caption)} characters, more than max_caption_length"
        if not _is_unicode(caption):
            return "its caption is not UTF-8"
        return None

    def _caption_ids(self, stated: list[Any] | None, image_id: int, captions: list[tuple[int, str]]) -> list[int]:
        # Texts, not positions: the ids outlive a change of order, and rows of one image do not collide.
        if stated is None and len(captions) == 1:
            return [stable_hash("caption", image_id, captions[0][1], 0)]
        if stated is None:
            seen: dict[str, int] = {}
            ids = []
            for _, text in captions:
                ids.append(stable_hash("caption", image_id, text, seen.get(text, 0)))
                seen[text] = seen.get(text, 0) + 1
            return ids
        return [self._id(stated[position]) for position, _ in captions]

    @staticmethod
    def _id(stated: Any) -> int:
        """A stated id as int64: integers, in digits or not, as they are; anything else by hash."""
        if type(stated) is int and 0 <= stated < 2**63:
            return stated
        text = str(stated)
        if text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**63:
            return int(text)
        return stable_hash("id", text)


class ImagePaths:
    """Resolves the image paths of one source.

    Args:
        config: the source; says the root, a prefix to strip, and whether paths may leave the root.
        roots: folders where relative paths may start, unless the source is given a root.
        first: the first few stated paths, each with its place in the source, to find the root by. May be empty.

    Raises:
        DataError: none of the first images is there, or one leaves the root.
    """

    def __init__(self, config: SourceConfig, roots: Sequence[Path], first: Sequence[tuple[str, str]]) -> None:
        self.config = config
        self.root, self._inside = "", os.sep
        given = [Path(config.image_root).expanduser()] if config.image_root is not None else roots
        candidates = [os.path.normpath(root.absolute()) for root in given]
        # A list made on Windows is read elsewhere, too; a backslash is part of a name only if such a file is there.
        for self._backslashes in (False, True) if any("\\" in path for path, _ in first) else (False,):
            for root in candidates:
                self.root = root
                self._inside = root.rstrip(os.sep) + os.sep
                if not first or self._holds_one(first):
                    return
        archives = [entry for root in candidates for entry in _archives(root)]
        packed = f"; or unpack {archives[0]}, if they are in it" if archives else ""
        raise DataError(
            f"none of the first {len(first)} images of {config.source} is in {' or '.join(candidates)} "
            f"({first[0][0]}, for one); give image_root or strip_prefix{packed}"
        )

    def _holds_one(self, first: Sequence[tuple[str, str]]) -> bool:
        """Whether one of some images is there.

        Raises:
            DataError: one leaves the root, or none can be a path.
        """
        refused: dict[str, DataError] = {}
        for stated, where in first:
            try:  # a path outside the root is refused before the file is looked for
                if os.path.exists(self.resolve(stated, where)):  # noqa: PTH110
                    return True
            except _NoPathError as error:
                refused[where] = error
        if len(refused) == len(first):
            where, why = next(iter(refused.items()))
            raise DataError(f"{where}: {why}")
        return False

    def resolve(self, stated: str, where: str) -> str:
        """Absolute path of an image. The file need not exist; links inside the root are followed when it is read.

        Raises:
            DataError: the path is a URL, cannot be a path at all, or leaves the root.
        """
        if self._backslashes:
            stated = stated.replace("\\", "/")
        if _is_plain(stated, self.config.strip_prefix):
            return f"{self._inside}{stated}"
        if stated.startswith(("http://", "https://")):
            raise _NoPathError(
                f"the image is a URL ({stated:.80}); download the images first, with img2dataset for example"
            )
        if "\0" in stated:
            raise _NoPathError("the image path holds a zero byte; repair the source")
        # os.path, because pathlib is several times slower and a source may have millions of rows.
        path = os.path.normpath(os.path.join(self.root, stated.removeprefix(self.config.strip_prefix)))  # noqa: PTH118
        inside = path.startswith(self._inside)
        if not inside and not self.config.allow_outside_root:
            raise DataError(
                f"{where}: image path {stated} leaves the image root {self.root}; give image_root or strip_prefix, "
                "or set allow_outside_root for a file you trust"
            )
        return path


def _archives(folder: str) -> list[str]:
    """Archives in a folder, if it is there."""
    found = sorted(Path(folder).glob("*"))
    return [str(path) for path in found if path.suffix.lower() in (*ARCHIVES, ".tar")]


def _is_plain(path: str, prefix: str) -> bool:
    """Whether a stated path needs nothing but the root before it: a relative one without dots, doubled slashes or more.

    Nearly all are, and a source may have millions.
    """
    return (
        bool(path)
        and path[0] not in "/."
        and path[-1] != "/"
        and "//" not in path
        and "/." not in path
        and "\0" not in path
        and not (prefix and path.startswith(prefix))
        and os.sep == "/"
    )


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; bytes that were not UTF-8 are read as lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
