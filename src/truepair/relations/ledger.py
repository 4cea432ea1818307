"""The ledger: every verdict on disk, in Parquet, and an index of verdicts in memory."""

import re
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.files import writing_file
from truepair.relations.pairs import PairSet

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("caption_id", pa.int64()),
        ("detector", pa.string()),
        ("score", pa.float32()),
        ("action", pa.string()),
        ("epoch", pa.int32()),
    ]
)
"""Columns of every part file."""

_PART = re.compile(r"verdicts-r(\d{5})-(\d{6})\.parquet")


class Ledger:
    """Appends verdicts to a folder of part files, safely while training.

    A part is written aside, brought to disk, and renamed: a reader never sees half of one, and a crash loses at most
    what was not flushed. Each rank writes parts of its own; :func:`read_ledger` merges them. Any Parquet reader works::

        duckdb.sql("select * from 'runs/a/ledger/*.parquet'")
    """

    def __init__(self, folder: str | Path, *, rank: int = 0, rows_per_part: int = 200_000) -> None:
        """Open or create a ledger; parts that are there already stay.

        Args:
            folder: Where the part files are.
            rank: Rank of this process.
            rows_per_part: A part is written once so many verdicts wait.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = rank
        self.rows_per_part = rows_per_part
        self._waiting: list[pa.RecordBatch] = []
        self._rows_waiting = 0
        self._next_part = max((number for _, number in self._own_parts()), default=-1) + 1

    def record(
        self, image_ids: Tensor, caption_ids: Tensor, scores: Tensor, *, detector: str, action: str, epoch: int
    ) -> None:
        """Append verdicts of one detector; they reach the disk with the next flush.

        Args:
            image_ids: int64 [P].
            caption_ids: int64 [P].
            scores: How sure the detector is [P].
            detector: Its name.
            action: What was done.
            epoch: When.
        """
        count = len(image_ids)
        if count == 0:
            return
        columns = [
            pa.array(image_ids.cpu().numpy(), pa.int64()),
            pa.array(caption_ids.cpu().numpy(), pa.int64()),
            pa.repeat(detector, count),
            pa.array(scores.detach().float().cpu().numpy(), pa.float32()),
            pa.repeat(action, count),
            pa.array(np.full(count, epoch, dtype=np.int32)),
        ]
        self._waiting.append(pa.record_batch(columns, schema=SCHEMA))
        self._rows_waiting += count
        if self._rows_waiting >= self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Bring all verdicts to disk."""
        if not self._waiting:
            return
        target = self.folder / f"verdicts-r{self.rank:05d}-{self._next_part:06d}.parquet"
        _write_part(pa.Table.from_batches(self._waiting, SCHEMA), target)
        self._waiting, self._rows_waiting = [], 0
        self._next_part += 1

    def state_dict(self) -> dict[str, int]:
        """Flush, and say how many parts there are: enough to come back to this point."""
        self.flush()
        return {"parts": self._next_part}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to a saved point: this rank's later parts, written by a run that crashed since, are removed.

        Raises:
            DataError: If parts that the saved point knows are gone.
        """
        own = {number: path for path, number in self._own_parts()}
        missing = [number for number in range(state["parts"]) if number not in own]
        if missing:
            raise DataError(f"The ledger {self.folder} lacks part {missing[0]} of rank {self.rank}; restore it.")
        for number, path in own.items():
            if number >= state["parts"]:
                path.unlink()
        self._waiting, self._rows_waiting = [], 0
        self._next_part = state["parts"]

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def _own_parts(self) -> list[tuple[Path, int]]:
        return [(path, number) for path, rank, number in _parts(self.folder) if rank == self.rank]


def read_verdicts(folder: str | Path) -> pa.Table:
    """All verdicts of a ledger as they were written, part by part: a pair may have several, over epochs and detectors.

    Args:
        folder: Folder of a :class:`Ledger`, or a single Parquet file with its columns.

    Raises:
        DataError: If there is no ledger, or a part cannot be read.
    """
    folder = Path(folder)
    parts = sorted(_parts(folder), key=lambda part: (part[2], part[1]))
    files = [folder] if folder.is_file() else [path for path, _, _ in parts]
    if not files:
        raise DataError(f"There is no ledger in {folder}; give the folder that holds its verdicts-*.parquet files.")
    return pa.concat_tables([_read(file) for file in files])


def read_ledger(folder: str | Path) -> pa.Table:
    """All verdicts of a ledger, merged over parts and ranks: of each (image, caption, detector) the latest.

    The latest is the one of the highest epoch; within an epoch that of the last part, then of the highest rank.

    Args:
        folder: Folder of a :class:`Ledger`, or a single Parquet file with its columns.

    Returns:
        A table with the columns of :data:`SCHEMA`, ordered by image, caption and detector.

    Raises:
        DataError: If there is no ledger, or a part cannot be read.
    """
    table = read_verdicts(folder)
    detector = table["detector"].combine_chunks().dictionary_encode().indices.to_numpy()
    image, caption, epoch = (table[name].to_numpy() for name in ("image_id", "caption_id", "epoch"))
    order = np.lexsort((epoch, detector, caption, image))  # stable: later parts after earlier ones
    last = np.ones(len(order), dtype=bool)
    keys = [column[order] for column in (image, caption, detector)]
    last[:-1] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return table.take(pa.array(order[last]))


def merge_ledger(folder: str | Path, target: str | Path) -> None:
    """Write the merged verdicts of a ledger to one Parquet file."""
    _write_part(read_ledger(folder), Path(target))


def _parts(folder: Path) -> list[tuple[Path, int, int]]:
    """Path, rank and number of every part file."""
    if not folder.is_dir():
        return []
    found = ((path, _PART.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [(path, int(match[1]), int(match[2])) for path, match in found if match]


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a part of a ledger ({error}); remove it or restore it.") from error


def _write_part(table: pa.Table, target: Path) -> None:
    """Write a file so that it is there as a whole or not at all."""
    with writing_file(target) as file:
        pq.write_table(table, file, compression="zstd")


class VerdictIndex:
    """Scores of (image id, caption id) pairs, each once.

    Example:
        >>> index = VerdictIndex.from_table(read_ledger("runs/a/ledger"), actions=["relabel"])  # doctest: +SKIP
    """

    def __init__(self, image_ids: np.ndarray, caption_ids: np.ndarray, scores: np.ndarray) -> None:
        """Sort the verdicts. Where a pair occurs more than once, its last verdict counts.

        Args:
            image_ids: int64 [N].
            caption_ids: int64 [N].
            scores: float [N].
        """
        order = np.lexsort((caption_ids, image_ids))  # stable: the last of equals is the latest
        images, captions = image_ids[order], caption_ids[order]
        last = np.ones(len(order), dtype=bool)
        last[:-1] = (images[1:] != images[:-1]) | (captions[1:] != captions[:-1])
        self.image_ids, self.caption_ids = images[last], captions[last]
        self.scores = np.asarray(scores[order][last], dtype=np.float32)

    @classmethod
    def from_table(
        cls, table: pa.Table, *, detectors: Collection[str] | None = None, actions: Collection[str] | None = None
    ) -> "VerdictIndex":
        """Index the rows of a ledger, all of them or those of certain detectors and actions."""
        for column, wanted in (("detector", detectors), ("action", actions)):
            if wanted is not None:
                table = table.filter(pc.is_in(table[column], pa.array(list(wanted), pa.string())))
        return cls(*(table[name].to_numpy() for name in ("image_id", "caption_id", "score")))

    def __len__(self) -> int:
        return len(self.scores)

    def about(self, image_ids: np.ndarray, caption_ids: np.ndarray) -> int:
        """How many of the verdicts are about an image and a caption of these, int64 [N] and [M]."""
        return int((np.isin(self.image_ids, image_ids) & np.isin(self.caption_ids, caption_ids)).sum())

    def within(self, image_ids: Tensor, caption_ids: Tensor) -> PairSet:
        """The (row, column) cells of a batch that have a verdict, with its score.

        Args:
            image_ids: Image id of each row, int64 [R].
            caption_ids: Caption id of each column, int64 [C].
        """
        images, captions = image_ids.cpu().numpy(), caption_ids.cpu().numpy()
        first, last = (np.searchsorted(self.image_ids, images, side) for side in ("left", "right"))
        rows, verdicts = _ranges(first, last)  # every verdict on every image of the batch
        order = np.argsort(captions, kind="stable")
        first, last = (np.searchsorted(captions[order], self.caption_ids[verdicts], side) for side in ("left", "right"))
        which, columns = _ranges(first, last)
        cells = np.stack([rows[which], order[columns]])
        rows_and_columns = torch.from_numpy(cells).to(image_ids.device)
        scores = torch.from_numpy(self.scores[verdicts[which]]).to(image_ids.device)
        return PairSet(rows_and_columns[0], rows_and_columns[1], scores, (len(images), len(captions)))


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all half-open ranges [first_i, last_i), and the range each belongs to."""
    lengths = last - first
    owner = np.repeat(np.arange(len(first)), lengths)
    start = np.repeat(first - np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(first) else first, lengths)
    return owner, np.arange(len(owner)) + start
