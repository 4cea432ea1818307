"""The files that other programs train on: rows of known matches, negatives that are none removed, ids to keep apart."""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from truepair.data.images import read_bytes
from truepair.data.open import open_pairs
from truepair.errors import ConfigError, DataError
from truepair.files import write_json, writing_folder
from truepair.mining.candidates import CANDIDATES, Candidates, require_own_ledger
from truepair.mining.gallery import Gallery, Integers, Lists
from truepair.mining.pictures import MinedPictures, read_mining
from truepair.relations.ledger import read_ledger
from truepair.relations.standing import Standing
from truepair.relations.zones import Zone
from truepair.tasks.export.known import (
    DECLARED,
    WORDS,
    Flags,
    Known,
    Say,
    Standard,
    groups_of,
    hardest_negatives,
    known_cells,
)

if TYPE_CHECKING:
    import pandas as pd

RECORD = "export.json"
"""What was done, in the folder of an export; by it a former one is known."""

PICTURES = "pictures"
"""Folder for pictures that are no file of their own."""

_MEDIA = (
    ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp", ".mp4", ".avi", ".mov", ".wmv", ".flv", ".mkv",
    ".mp3", ".wav", ".ogg", ".flac", ".aac",
)  # fmt: skip
"""Endings of what sentence-transformers opens."""

_AS_CSV: dict[str, Any] = {"sep": "\t", "index": False, "quoting": csv.QUOTE_ALL}
"""Of open_clip; without the quotes a carriage return would end a row."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported.

    Attributes:
        low: a negative has a probability below it.
        high: a match has this probability at least; None for that of the certificate, and people's own yes.
        judge: whose verdicts count; None for the judge of the certificate, or the only one.
        negatives: hard negatives of each pair, for sentence-transformers.

    Raises:
        ConfigError: fewer negatives than none.
    """

    low: float = 0.1
    high: float | None = None
    judge: str | None = None
    negatives: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ConfigError(f"an export has {self.negatives} negatives of each pair; give 0 or more")


@dataclass(frozen=True)
class VerdictSource:
    """A ledger, and the pictures and captions it is about.

    Attributes:
        ledger: its folder.
        candidates: pictures and captions.
        stored: the image cell of a picture's number, as in a ``PairTable``.
    """

    ledger: Path
    candidates: Candidates
    stored: Callable[[int], Mapping[str, Any]]


def open_verdicts(folder: Path, data: str | None, say: Say) -> VerdictSource:
    """Open a mined folder, or any ledger with the source of its pairs.

    Args:
        folder: of ``truepair mine``, of a run with a ledger, or of verdicts.
        data: the source of the pairs; a mined folder knows its own, and needs it only if that was moved.
        say: prints a line.

    Raises:
        ConfigError: it is no mined folder, and no source is given.
        DataError: folder or source cannot be read.
    """
    ledger = folder / "ledger" if (folder / "ledger").is_dir() else folder
    mined = (folder / CANDIDATES).is_file()
    if data is None:
        if not mined:
            raise ConfigError(f"{folder} is no mined folder; give the source of its pairs: --data pairs.csv")
        mining, candidates = read_mining(folder), Candidates.load(folder)
        require_own_ledger(folder, candidates)
        paths = [None if path is None else str(Path(mining["folder"], path)) for path in candidates.paths]
        return VerdictSource(ledger, replace(candidates, paths=paths), MinedPictures(candidates, mining).stored)
    table = open_pairs(data)
    if not mined and len(table.splits) > 1 and "train" in table.splits:
        say(f"{len(table) - table.splits['train']:,} rows of {data} are left out: they are not of its training split")
        table = table.split("train")
    if not mined:
        nothing, none = np.empty(0, np.int64), np.empty(0, np.float32)
        gallery = Gallery.of_table(table)
        candidates = Candidates.of_gallery(gallery, nothing, nothing, np.empty((0, 0), np.float32), (), none)
    else:
        candidates = Candidates.load(folder)
        require_own_ledger(folder, candidates)
    rows = {image: row for row, image in enumerate(table.image_ids.tolist())}

    def stored(number: int) -> Mapping[str, Any]:
        """The image cell of a picture."""
        row = rows.get(int(candidates.image_ids[number][0]))
        if row is None:
            raise DataError(f"{data} lacks a picture that {folder} is about; give the source that was mined")
        cell: Mapping[str, Any] = table.rows[row]["image"]
        return cell

    return VerdictSource(ledger, candidates, stored)


def export_verdicts(source: VerdictSource, kind: str, folder: Path, config: ExportConfig, say: Say) -> int:
    """Write verdicts as another program reads them.

    Args:
        source: ledger, pictures and captions.
        kind: one of :data:`KINDS`.
        folder: where; a former export there is replaced.
        config: what counts.
        say: prints a line; all lines are kept in ``export.json`` as well.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: the thresholds are out of order, the judge is not clear, or the folder holds something else.
        DataError: nothing can be exported.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD).is_file())):
        raise ConfigError(f"{folder} is there, and is no former export; give another folder")
    lines: list[str] = []

    def tell(line: str) -> None:
        """Say a line, and keep it for the record."""
        lines.append(line)
        say(line)

    verdicts, standing = read_ledger(source.ledger), Standing.load(source.ledger)
    standard = Standard.of_ledger(verdicts, standing, low=config.low, high=config.high, judge=config.judge, say=tell)
    if standing is not None and not standing.judged:
        tell("nobody has answered yet: what is doubtful or a negative is so by the prior alone")
    known = known_cells(source.candidates, verdicts, standard, tell)
    with writing_folder(folder) as aside:
        export = _Export(source, known, config, aside, folder, tell)
        count = KINDS[kind](export)
        certificate = None if standard.certificate is None else asdict(standard.certificate)
        record = {"format": kind, "of": str(source.ledger), "rows": count, "certificate": certificate, "said": lines}
        write_json(aside / RECORD, record)
    return count


@dataclass(frozen=True)
class _Export:
    """One export on its way.

    Attributes:
        source: ledger, pictures and captions.
        known: the cells.
        config: what counts.
        aside: where files are written.
        final: where they will be.
        say: prints a line.
    """

    source: VerdictSource
    known: Known
    config: ExportConfig
    aside: Path
    final: Path
    say: Say

    def texts(self, captions: Integers) -> list[str]:
        """Captions by their numbers."""
        texts = self.source.candidates.texts
        return [texts[number] for number in captions.tolist()]

    def kept(self, cells: Flags, why: str) -> Flags:
        """Say how many cells are left out.

        Args:
            cells: the cells kept among those asked about [Q].
            why: what is the matter with the others.
        """
        if not cells.all():
            self.say(f"{int((~cells).sum()):,} pairs are left out: {why}")
        return cells

    def files(self, pictures: Integers) -> list[str | None]:
        """The file of each picture; those in tables and archives are written out. None for one that is missing.

        Raises:
            BadImageError: pictures lie in a table that is gone or another one now, or one in a table is empty.
        """
        paths = self.source.candidates.paths
        found: dict[int, str | None] = {}
        written = 0
        for number in np.unique(pictures).tolist():
            path = paths[number]
            if path is not None and Path(path).is_file():
                found[number] = str(Path(path).absolute())
            elif path is None or Path(path.rpartition("#")[0]).is_file():
                found[number] = self._written_out(number)
                written += 1
            else:
                found[number] = None
        if written:
            self.say(f"{written:,} pictures that are no files of their own are written to {self.final / PICTURES}")
        return [found[number] for number in pictures.tolist()]

    def _written_out(self, number: int) -> str:
        encoded = read_bytes(self.source.stored(number))
        try:
            with Image.open(BytesIO(encoded)) as image:
                suffix = str(image.format).lower()
        except OSError:
            suffix = "bin"  # whoever opens it hears that it is none
        name = Path(PICTURES, f"{number:07d}.{suffix}")
        (self.aside / name).parent.mkdir(exist_ok=True)
        (self.aside / name).write_bytes(encoded)
        return str((self.final / name).absolute())

    def positives(self) -> tuple[Integers, list[str]]:
        """The cells that are declared or match, int64 [R], and the file of each one's picture.

        Raises:
            DataError: there is none.
        """
        cells = np.flatnonzero(self.known.are(DECLARED, Zone.MATCH))
        files = self.files(self.known.pictures[cells])
        kept = self.kept(
            np.array([file is not None for file in files], bool), "the files of their pictures are missing"
        )
        cells, present = cells[kept], [file for file in files if file is not None]
        if len(cells) == 0:
            raise DataError("there is no pair left to export; see the lines above")
        return cells, present

    def groups(self, cells: Integers, negatives: Integers) -> Lists:
        """Ids that keep rows apart: of cells [R], with captions as negatives [R, C]."""
        shape = (len(self.source.candidates.image_ids), len(self.source.candidates.texts))
        return groups_of(self.known, self.known.pictures[cells], self.known.captions[cells], negatives, shape)

    def say_rows(self, cells: Integers, rows: str) -> None:
        """Say of what the rows are made."""
        kinds = self.known.kinds[cells]
        doubtful = int(self.known.are(Zone.DOUBTFUL).sum())
        self.say(
            f"{len(cells):,} {rows}: {int((kinds == DECLARED).sum()):,} declared, {int((kinds == Zone.MATCH).sum()):,} "
            f"matches; {doubtful:,} doubtful ones are left out, and kept apart in batches as matches are"
        )


def _sentence_transformers(export: _Export) -> int:
    """``train.parquet``: anchor, positive, negative_1 ...; ``groups.parquet``: ids that keep rows apart."""
    from datasets import Features, Value
    from datasets import Image as ImageColumn

    known, texts = export.known, export.source.candidates.texts
    cells, files = export.positives()
    readable = ~np.array([_opened_as_media(text) for text in texts], bool)  # [M]
    kept = export.kept(
        readable[known.captions[cells]], "sentence-transformers would open their captions as pictures or sounds"
    )
    cells, files = cells[kept], [file for file, one in zip(files, kept.tolist(), strict=True) if one]
    negatives = np.empty((len(cells), 0), np.int64)
    if export.config.negatives:
        negatives = hardest_negatives(known, known.pictures[cells], export.config.negatives, readable)
        kept = export.kept(
            negatives[:, -1] >= 0,
            f"fewer than {export.config.negatives} captions are known not to match their pictures",
        )
        cells, negatives = cells[kept], negatives[kept]
        files = [file for file, one in zip(files, kept.tolist(), strict=True) if one]
    if len(cells) == 0:
        raise DataError("there is no row left to export; ask for fewer --negatives, or answer and mine more")
    columns: dict[str, Any] = {
        "anchor": pa.array([{"bytes": None, "path": file} for file in files], ImageColumn().pa_type),
        "positive": export.texts(known.captions[cells]),
    }
    columns |= {f"negative_{number + 1}": export.texts(negatives[:, number]) for number in range(negatives.shape[1])}
    features = Features({name: Value("string") for name in columns} | {"anchor": ImageColumn()})
    pq.write_table(pa.table(columns, schema=features.arrow_schema), export.aside / "train.parquet", compression="zstd")
    groups = _lists(export.groups(cells, negatives))
    pq.write_table(pa.table({"group": groups}), export.aside / "groups.parquet", compression="zstd")
    export.say_rows(cells, f"rows (anchor, positive{', negatives' if negatives.size else ''})")
    if negatives.size:
        export.say(
            f"{negatives.size:,} hard negatives of {len(np.unique(negatives)):,} captions: each was refused by people "
            f"or is below {export.config.low:g} by every judge; none is declared, a match or doubtful"
        )
    return len(cells)


def _open_clip(export: _Export) -> int:
    """``pairs.csv``, with tabs, as ``CsvDataset`` of open_clip reads it, and with groups."""
    import pandas as pd

    cells, files = export.positives()
    table = pd.DataFrame({"filepath": files, "title": export.texts(export.known.captions[cells])})
    kept = np.ones(len(table), bool)
    while (changed := _changed_by_csv(table[kept])).any():  # what is left may be read in another way than the whole
        kept[np.flatnonzero(kept)[changed]] = False
    kept = export.kept(kept, "pandas, with which open_clip reads them, takes their captions for missing or for numbers")
    cells, table = cells[kept], table[kept].copy()
    if len(cells) == 0:
        raise DataError("there is no pair left to export; see the lines above")
    groups = export.groups(cells, np.empty((len(cells), 0), np.int64))
    table["group"] = [" ".join(map(str, groups[row].tolist())) for row in range(len(cells))]
    table.to_csv(export.aside / "pairs.csv", **_AS_CSV)
    export.say_rows(cells, "pairs")
    return len(cells)


def _changed_by_csv(table: "pd.DataFrame") -> Flags:
    """Which rows open_clip would read as something else, bool [R]: pandas takes "NA" for missing, and "007" for 7."""
    import pandas as pd

    place = BytesIO()
    table.to_csv(place, **_AS_CSV)
    place.seek(0)
    read = pd.read_csv(place, sep="\t")
    changed = np.zeros(len(table), bool)
    for name in table.columns:
        pairs = zip(read[name].tolist(), table[name].tolist(), strict=True)
        changed |= np.array([str(one) != other for one, other in pairs], bool)
    return changed


def _pairs(export: _Export) -> int:
    """``pairs.parquet`` and ``pairs.csv``: every cell of which something is known."""
    import pyarrow.csv

    known = export.known
    present = export.files(known.pictures)
    kept = export.kept(
        np.array([file is not None for file in present], bool), "the files of their pictures are missing"
    )
    cells = np.flatnonzero(kept)
    table = pa.table(
        {
            "image": pa.array([file for file in present if file is not None], pa.string()),
            "caption": export.texts(known.captions[cells]),
            "probability": pa.array(known.probabilities[cells], from_pandas=True),  # NaN is null
            "judge": pa.array([known.judges[cell] for cell in cells.tolist()], pa.string()),
            "verdict": [WORDS[kind] for kind in known.kinds[cells].tolist()],
            "certified": known.certified[cells],
        }
    )
    pq.write_table(table, export.aside / "pairs.parquet", compression="zstd")
    pyarrow.csv.write_csv(table, export.aside / "pairs.csv")
    counts = (f"{int((known.kinds[cells] == kind).sum()):,} {word}" for kind, word in reversed(WORDS.items()))
    export.say(f"{len(cells):,} pairs: {', '.join(counts)}; {int(known.certified[cells].sum()):,} of them certified")
    return len(cells)


KINDS: dict[str, Callable[[_Export], int]] = {
    "sentence-transformers": _sentence_transformers,
    "open_clip": _open_clip,
    "pairs": _pairs,
}
"""What the verdicts are written for."""


def _opened_as_media(text: str) -> bool:
    """Whether sentence-transformers opens a caption in place of reading it: an address or the path of a file."""
    if text.startswith("data:image/"):
        return True
    if text.startswith(("http://", "https://")) and " " not in text:
        try:
            place = urlparse(text)
        except ValueError:
            return False
        return place.path.lower().endswith(_MEDIA) or place.netloc in ("www.youtube.com", "youtube.com", "youtu.be")
    return text.lower().endswith(_MEDIA) and os.path.isfile(text)  # noqa: PTH113 - any text at all


def _lists(lists: Lists) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(lists.starts), pa.array(lists.values))
