"""The candidates of a mined table: undeclared cells that may match, with the signals that a judge reads, on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from truepair.errors import DataError
from truepair.files import require_whole, writing_file
from truepair.mining.gallery import Gallery, Integers, Lists
from truepair.models.encoders.fingerprint import combined_key
from truepair.relations.ledger import Ledger
from truepair.relations.ranges import ranges, starts_of
from truepair.relations.standing import Standing

Floats = NDArray[np.float32]

CANDIDATES, PICTURES, CAPTIONS = "candidates.parquet", "pictures.parquet", "captions.parquet"

MINED_SEAL = "mined.sha256.json"
"""Sums of the files of a mined folder, which belong together."""

ANSWERS_FILE = "answers.jsonl"
"""What people said of a mined folder's pairs."""

_AGAIN = "run truepair mine again"


@dataclass(frozen=True)
class Candidates:
    """P cells, the most suspicious first, as ``truepair mine`` keeps them.

    Attributes:
        pictures: number of each cell's picture, int64 [P].
        captions: number of its caption [P].
        signals: what a judge reads of each cell [P, S]; NaN where a signal says nothing.
        names: of the signals, "family/column" [S].
        prior: log-odds of a match before anyone has answered [P].
        texts: all captions, M.
        image_ids: ids of each picture, N lists.
        caption_ids: ids of each caption, M lists.
        own: captions declared for each picture, N lists.
        owners: pictures that each caption is declared for, M lists.
        paths: file of each picture; None where it lies in a table [N].
        rows: row of each picture in the mined table [N].
    """

    pictures: Integers
    captions: Integers
    signals: Floats
    names: tuple[str, ...]
    prior: Floats
    texts: Sequence[str]
    image_ids: Lists
    caption_ids: Lists
    own: Lists
    owners: Lists
    paths: Sequence[str | None]
    rows: Integers

    @classmethod
    def of_gallery(
        cls,
        gallery: Gallery,
        pictures: Integers,
        captions: Integers,
        signals: Floats,
        names: Sequence[str],
        prior: Floats,
    ) -> "Candidates":
        """Cells of a gallery; they are brought into the order of their prior."""
        order = np.argsort(-prior, kind="stable")
        places = gallery.table.places.take(pa.array(gallery.rows)).to_pylist()
        return cls(
            pictures=pictures[order],
            captions=captions[order],
            signals=np.ascontiguousarray(signals[order], np.float32),
            names=tuple(names),
            prior=prior[order].astype(np.float32),
            texts=gallery.texts,
            image_ids=gallery.image_ids,
            caption_ids=gallery.caption_ids,
            own=gallery.captions,
            owners=gallery.pictures,
            paths=[None if place is None else place.rstrip("#") for place in places],
            rows=gallery.rows,
        )

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def fingerprint(self) -> str:
        """Of the cells and their signals."""
        arrays = {name: getattr(self, name) for name in ("pictures", "captions", "signals")}
        return combined_key(
            names=list(self.names),
            **{name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()},
        )

    def columns(self, family: str) -> list[int]:
        """Numbers of the signals of a family."""
        return [number for number, name in enumerate(self.names) if name.split("/")[0] == family]

    def record(self, ledger: Ledger, probabilities: Floats, *, judge: str, which: Integers | None = None) -> int:
        """Write verdicts into a ledger: one for each id of the picture with each id of the caption.

        Args:
            ledger: is not flushed.
            probabilities: of the cells meant [W].
            judge: its name.
            which: numbers of those cells [W]; None for all.

        Returns:
            How many verdicts were written.
        """
        import torch

        which = np.arange(len(self)) if which is None else which
        pictures, captions = self.pictures[which], self.captions[which]
        n, m = self.image_ids.counts[pictures], self.caption_ids.counts[captions]
        cell, place = ranges(np.zeros_like(n), n * m)
        image = self.image_ids.values[self.image_ids.starts[pictures[cell]] + place // m[cell]]
        caption = self.caption_ids.values[self.caption_ids.starts[captions[cell]] + place % m[cell]]
        ledger.record(
            torch.from_numpy(image),
            torch.from_numpy(caption),
            torch.from_numpy(np.asarray(probabilities, np.float32)[cell]),
            judge=judge,
            time=np.datetime64("now", "ms"),
        )
        return len(cell)

    def save(self, folder: Path) -> None:
        """Write ``candidates.parquet``, with paths and captions for people, and the pictures and captions beside it.

        Args:
            folder: of :func:`truepair.files.writing_together`, with :data:`MINED_SEAL`.

        Raises:
            OSError: the disk refuses.
        """
        paths, texts = pa.array(self.paths, pa.string()), pa.array(self.texts, pa.string())
        first = {name: getattr(self, name).values[getattr(self, name).starts[:-1]] for name in ("own", "owners")}
        ids, caption_ids = (lists.values[lists.starts[:-1]] for lists in (self.image_ids, self.caption_ids))
        owner = first["owners"][self.captions]
        columns = {
            "image": paths.take(pa.array(self.pictures)),
            "caption": texts.take(pa.array(self.captions)),
            "own_caption": texts.take(pa.array(first["own"][self.pictures])),
            "caption_of": paths.take(pa.array(owner)),
            "probability": 1 / (1 + np.exp(-self.prior.astype(np.float64))),
            "log_odds": self.prior,
            "image_id": ids[self.pictures],
            "caption_id": caption_ids[self.captions],
            "picture_number": self.pictures,
            "caption_number": self.captions,
            **{name: self.signals[:, number] for number, name in enumerate(self.names)},
        }
        _write(pa.table(columns), folder / CANDIDATES)
        _write(
            pa.table(
                {"image": paths, "row": self.rows, "image_ids": _lists(self.image_ids), "captions": _lists(self.own)}
            ),
            folder / PICTURES,
        )
        _write(
            pa.table({"caption": texts, "caption_ids": _lists(self.caption_ids), "pictures": _lists(self.owners)}),
            folder / CAPTIONS,
        )

    @classmethod
    def load(cls, folder: Path) -> "Candidates":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: a file is missing or damaged, or of another call than those beside it.
        """
        require_whole(folder, MINED_SEAL, _AGAIN)
        try:
            cells, pictures, captions = (pq.read_table(folder / name) for name in (CANDIDATES, PICTURES, CAPTIONS))
            names = tuple(name for name in cells.column_names if "/" in name)
            signals = np.empty((len(cells), len(names)), np.float32)
            for number, name in enumerate(names):
                signals[:, number] = cells[name].to_numpy()
            return cls(
                pictures=cells["picture_number"].to_numpy(),
                captions=cells["caption_number"].to_numpy(),
                signals=signals,
                names=names,
                prior=cells["log_odds"].to_numpy(),
                texts=captions["caption"].to_pylist(),
                image_ids=_of_lists(pictures["image_ids"]),
                caption_ids=_of_lists(captions["caption_ids"]),
                own=_of_lists(pictures["captions"]),
                owners=_of_lists(captions["pictures"]),
                paths=pictures["image"].to_pylist(),
                rows=pictures["row"].to_numpy(),
            )
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{folder} holds no candidates ({error}); run truepair mine first") from error


def has_answers(folder: Path) -> bool:
    """Whether people have said anything of the pairs of a mined folder; one that was only looked at has none."""
    file = folder / ANSWERS_FILE
    return file.is_file() and file.stat().st_size > 0


def require_own_ledger(folder: Path, candidates: Candidates) -> None:
    """Check that the ledger of a mined folder is of the same call as its candidates.

    One that people have answered for is not: it stays when the folder is mined again.

    Raises:
        DataError: it is of another call, which was killed before its own ledger stood.
    """
    if has_answers(folder) or not (folder / "ledger").is_dir():
        return
    standing = Standing.load(folder / "ledger")
    if standing is not None and standing.candidates not in ("", candidates.fingerprint):
        raise DataError(f"{folder / 'ledger'} is of another call than the candidates beside it; {_AGAIN}")


def _write(table: pa.Table, file: Path) -> None:
    with writing_file(file, error=None) as opened:
        pq.write_table(table, opened, compression="zstd")


def _lists(lists: Lists) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(lists.starts), pa.array(lists.values))


def _of_lists(column: pa.ChunkedArray) -> Lists:
    return Lists(starts_of(pc.list_value_length(column).to_numpy()), pc.list_flatten(column).to_numpy())
