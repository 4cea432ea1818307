"""Statements about two images from disk, in the layout of NLVR2."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from truepair.data.image_table import ImagePaths
from truepair.data.table import PairTable
from truepair.errors import DataError

_LABELS = {"True": 1, "False": 0}


@dataclass(frozen=True, kw_only=True)
class Nlvr2Source:
    """One file of statements.

    Attributes:
        statements: JSON Lines file: ``train.json``, ``dev.json`` or ``test1.json`` of the official data.
        image_root: folder of the images. An image lies at ``train/<directory>/train-10171-0-img0.png`` within it, or
            ``dev/dev-0-0-img0.png``.
    """

    statements: str
    image_root: str


class Statement(NamedTuple):
    """One statement as its source states it; the label is -1 where it is unknown."""

    identifier: str
    left: int
    right: int
    sentence: str
    label: int


_SCHEMA = pa.schema(
    [
        ("identifier", pa.string()),
        ("left", pa.int64()),
        ("right", pa.int64()),
        ("sentence", pa.string()),
        ("label", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Nlvr2Table:
    """Statements and the images they are about.

    Attributes:
        images: one row a distinct image.
        statements: columns identifier, left and right (rows of ``images``), sentence, label (1 true, 0 false, -1
            unknown).
    """

    images: PairTable
    statements: Dataset

    def __len__(self) -> int:
        return len(self.statements)


def open_nlvr2(sources: Sequence[Nlvr2Source]) -> Nlvr2Table:
    """Open statements; several sources become one table.

    Raises:
        DataError: a file cannot be read as statements, or images are missing.
    """
    images = ImagePaths(" and ".join(Path(source.statements).name for source in sources) or "an empty list of sources")
    rows = [row for source in sources for row in _statements(source, images)]
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    table = pa.table([pa.array(list(c), type=f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
    if len(set(table["identifier"].to_pylist())) < len(table):
        raise DataError(f"{images.what} has an identifier twice; each statement needs one of its own")
    return Nlvr2Table(images.table(), Dataset(table))


def _statements(source: Nlvr2Source, images: ImagePaths) -> Iterator[Statement]:
    path = Path(source.statements).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    root = Path(source.image_root).expanduser()
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _statement(line, f"{path.name} line {number}", root, images)


def _statement(line: str, where: str, root: Path, images: ImagePaths) -> Statement:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); repair or delete it") from None
    identifier, sentence = (entry.get(n) if isinstance(entry, dict) else None for n in ("identifier", "sentence"))
    if not isinstance(identifier, str) or not isinstance(sentence, str) or not sentence.strip():
        raise DataError(f"{where} has no identifier or no sentence; repair or delete it")
    label = entry.get("label")
    if label is not None and str(label) not in _LABELS:
        raise DataError(f"{where}: label is {label!r}; it must be True or False, or absent")
    left, right = (images.add(root, path) for path in _image_paths(identifier, entry.get("directory"), where))
    return Statement(identifier, left, right, sentence, -1 if label is None else _LABELS[str(label)])


def _image_paths(identifier: str, directory: Any, where: str) -> list[str]:
    """Where the two images of a statement lie: ``split-set-pair-sentence`` names the files, but for the sentence."""
    parts = identifier.split("-")
    if len(parts) != 4:
        raise DataError(f"{where}: identifier is '{identifier}'; it must read split-set-pair-sentence")
    folder = parts[0] if directory is None else f"{parts[0]}/{directory}"
    return [f"{folder}/{'-'.join(parts[:3])}-img{side}.png" for side in (0, 1)]
