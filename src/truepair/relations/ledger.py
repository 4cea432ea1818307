"""The ledger: every verdict on disk, in Parquet, and an index of verdicts in memory.

A verdict says with which probability an image and a caption match, who says so, and when. What becomes of the pair is
not its business: that is decided by zones and rules when the ledger is read.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.files import clear_asides, one_line_errors, writing_file
from truepair.randomness import sample_keys, stable_hash
from truepair.relations.pairs import PairSet
from truepair.relations.ranges import ranges
from truepair.relations.standing import STANDING_FILE, Standing

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("caption_id", pa.int64()),
        ("judge", pa.string()),
        ("probability", pa.float32()),
        ("epoch", pa.int32()),  # of the run in which the verdict was given; 0 outside of runs
        ("time", pa.timestamp("ms")),  # when it was given outside of runs; runs leave it out, so that they repeat
    ]
)
"""Columns of every part file."""

PERSON = "person:"
"""What the names of people among the judges begin with; theirs override every other verdict on a pair."""

_PART = re.compile(r"verdicts-r(\d{5})-(\d{6})\.parquet")


class Ledger:
    """Appends verdicts to a folder of part files, safely while training.

    A part is written aside, brought to disk, and renamed: a reader never sees half of one, and a crash loses at most
    what was not flushed. Each rank writes parts of its own; :func:`read_ledger` merges them. Any Parquet reader works::

        duckdb.sql("select * from 'runs/a/ledger/*.parquet'")

    Args:
        folder: Where the part files are; parts that are there already stay.
        rank: Rank of this process.
        rows_per_part: A part is written once so many verdicts wait.
        say: Prints a line, where a part that a saved point knows is gone or damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        rows_per_part: int = 200_000,
        say: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.folder = Path(folder)
        with one_line_errors(self.folder, DataError, "choose another place"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = rank
        clear_asides(self.folder, f"verdicts-r{rank:05d}-*.parquet")
        self.rows_per_part = rows_per_part
        self.say = say
        self._sums: dict[int, str] = {}  # of the parts, as far as they were asked for
        self._waiting: list[pa.RecordBatch] = []
        self._rows_waiting = 0
        self._next_part = max((number for _, number in self._own_parts()), default=-1) + 1
        self._given = _KeySet()

    def record(
        self,
        image_ids: Tensor,
        caption_ids: Tensor,
        probabilities: Tensor,
        *,
        judge: str,
        epoch: int = 0,
        time: np.datetime64 | None = None,
        once: bool = False,
    ) -> None:
        """Append verdicts of one judge; they reach the disk with the next flush.

        Args:
            image_ids: int64 [P].
            caption_ids: int64 [P].
            probabilities: Of matching [P].
            judge: Its name.
            epoch: When, in a run.
            time: When, outside of runs.
            once: Leave out pairs on which this judge has spoken here before.
        """
        if once and len(image_ids):
            new = self._given.add(_keys(image_ids, caption_ids, judge))
            image_ids, caption_ids, probabilities = image_ids[new], caption_ids[new], probabilities[new]
        count = len(image_ids)
        if count == 0:
            return
        columns = [
            pa.array(image_ids.cpu().numpy(), pa.int64()),
            pa.array(caption_ids.cpu().numpy(), pa.int64()),
            pa.repeat(judge, count),
            pa.array(probabilities.detach().float().cpu().numpy(), pa.float32()),
            pa.array(np.full(count, epoch, dtype=np.int32)),
            pa.nulls(count, pa.timestamp("ms"))
            if time is None
            else pa.repeat(pa.scalar(time).cast("timestamp[ms]"), count),
        ]
        self._waiting.append(pa.record_batch(columns, schema=SCHEMA))
        self._rows_waiting += count
        if self._rows_waiting >= self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Bring all verdicts to disk.

        Raises:
            DataError: the disk refuses; they wait on.
        """
        if not self._waiting:
            return
        _write_aside(pa.Table.from_batches(self._waiting, SCHEMA), self._part(self._next_part))
        self._waiting, self._rows_waiting = [], 0
        self._next_part += 1

    def state_dict(self) -> dict[str, Any]:
        """Flush, and say how many parts there are, with the SHA-256 of each: enough to come back to this point."""
        self.flush()
        for number in range(self._next_part):
            if number not in self._sums:
                self._sums[number] = _sha256(self._part(number))
        return {"parts": self._next_part, "sums": [self._sums[number] for number in range(self._next_part)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved point: what models said in this rank's later parts is removed, what people said stays.

        A run that crashed wrote those parts, and will write them again. In the place of a part that is gone or damaged
        comes an empty one, and a line says so: nothing is computed of what a run itself has noted.

        Raises:
            DataError: A part cannot be read, and the saved point is of an older version, which has no sums.
        """
        kept = state["parts"]
        self._sums = dict(enumerate(state.get("sums", ())))
        for number in range(kept):
            self._mend(number)
        own = {number: path for path, number in self._own_parts()}
        later = [_read(path) for number, path in own.items() if number >= kept]
        people = pa.concat_tables([SCHEMA.empty_table(), *later])
        people = people.filter(pc.starts_with(people["judge"], PERSON))
        if len(people):  # over the first of the later parts, so that no crash can lose them
            _write_aside(people, self._part(kept))
        self._given = _KeySet()
        self._given.add(_keys_of_table(people))
        for number, path in own.items():
            if number < kept:
                self._given.add(_keys_of_table(_read(path)))
            elif number > kept or not len(people):
                path.unlink()
        self._waiting, self._rows_waiting = [], 0
        self._next_part = kept + (len(people) > 0)
        self._sums = {number: found for number, found in self._sums.items() if number < kept}

    def _mend(self, number: int) -> None:
        """Put an empty part where one is gone or damaged; what is left of it keeps another name."""
        part = self._part(number)
        aside = part.with_name(f"damaged-{part.name}")
        if not part.is_file():
            self.say(f"{part} is gone; the run goes on without its verdicts")
        elif self._sums.get(number, now := _sha256(part)) != now:
            part.replace(aside)
            self.say(f"{part} is damaged, and is {aside.name} now; the run goes on without its verdicts")
        else:
            return
        _write_aside(SCHEMA.empty_table(), part)
        self._sums[number] = _sha256(part)

    def clear(self) -> None:
        """Begin anew: go back to the point before the first part; what is said of verdicts that are gone goes, too."""
        (self.folder / STANDING_FILE).unlink(missing_ok=True)
        self.load_state_dict({"parts": 0})

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush; what ended the block early is what is told, not what else goes wrong."""
        try:
            self.flush()
        except DataError:
            if error is None:
                raise

    def _part(self, number: int) -> Path:
        return self.folder / f"verdicts-r{self.rank:05d}-{number:06d}.parquet"

    def _own_parts(self) -> list[tuple[Path, int]]:
        return [(path, number) for path, rank, number in _parts(self.folder) if rank == self.rank]


def read_verdicts(folder: str | Path) -> pa.Table:
    """All verdicts of a ledger as they were written, part by part: a pair may have several, over epochs and judges.

    A ledger of the first edition, which kept what was done with each pair, is read as what it says of probabilities:
    verdicts of judges stay, what plain rules had found (pairs of one image, say) is left out.

    Args:
        folder: Folder of a :class:`Ledger`, or a single Parquet file with its columns.

    Returns:
        A table with the columns of :data:`SCHEMA`.

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
    """All verdicts of a ledger, merged over parts and ranks: of each (image, caption, judge) the latest.

    The latest is the one of the highest epoch; within an epoch that of the last time, of the last part, then of the
    highest rank.

    Args:
        folder: Folder of a :class:`Ledger`, or a single Parquet file with its columns.

    Returns:
        A table with the columns of :data:`SCHEMA`, ordered by image, caption and judge.

    Raises:
        DataError: If there is no ledger, or a part cannot be read.
    """
    table = read_verdicts(folder)
    judge = table["judge"].combine_chunks().dictionary_encode().indices.to_numpy()
    image, caption, epoch = (table[name].to_numpy() for name in ("image_id", "caption_id", "epoch"))
    time = _milliseconds(table)
    order = np.lexsort((time, epoch, judge, caption, image))  # stable: later parts after earlier ones
    last = np.ones(len(order), dtype=bool)
    keys = [column[order] for column in (image, caption, judge)]
    last[:-1] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return table.take(pa.array(order[last]))


class VerdictIndex:
    """Probabilities of (image id, caption id) pairs in memory, each pair once, so that those of a batch are found fast.

    Args:
        image_ids: int64 [N].
        caption_ids: int64 [N].
        probabilities: float [N]; where a pair occurs more than once, its last verdict counts.
        judges: Number of the judge of each, int [N]; all are of the first when absent.
        names: Names of the judges.

    Example:
        >>> index = VerdictIndex.from_table(read_ledger("runs/a/ledger"))  # doctest: +SKIP
    """

    def __init__(
        self,
        image_ids: np.ndarray,
        caption_ids: np.ndarray,
        probabilities: np.ndarray,
        judges: np.ndarray | None = None,
        names: Sequence[str] = ("recorded",),
    ) -> None:
        order = np.lexsort((caption_ids, image_ids))  # stable: the last of equals is the latest
        images, captions = image_ids[order], caption_ids[order]
        last = np.ones(len(order), dtype=bool)
        last[:-1] = (images[1:] != images[:-1]) | (captions[1:] != captions[:-1])
        self.image_ids, self.caption_ids = images[last], captions[last]
        self.probabilities = np.asarray(probabilities[order][last], dtype=np.float32)
        self.judges = (
            np.zeros(len(self.image_ids), np.int32) if judges is None else judges[order][last].astype(np.int32)
        )
        self.names = list(names)
        self._latest: tuple[Tensor, Tensor, PairSet, np.ndarray] | None = None

    @classmethod
    def from_table(cls, table: pa.Table) -> "VerdictIndex":
        """Index the verdicts of a ledger; those of people override the others.

        Args:
            table: From :func:`read_ledger`.
        """
        names = table["judge"].combine_chunks().dictionary_encode()
        of_name = names.indices.to_numpy()  # [N]
        known = names.dictionary.to_pylist()
        order = np.argsort(_are_people(known)[of_name], kind="stable")  # people last, for the last of a pair counts
        images, captions, probabilities = (
            table[name].to_numpy()[order] for name in ("image_id", "caption_id", "probability")
        )
        return cls(images, captions, probabilities, of_name[order], known)

    @classmethod
    def merged(cls, indices: Sequence["VerdictIndex"]) -> "VerdictIndex":
        """One index of several; where a pair is in more than one, the last verdict counts."""
        columns = ("image_ids", "caption_ids", "probabilities")
        images, captions, probabilities = (
            np.concatenate([getattr(index, name) for index in indices]) for name in columns
        )
        return cls(images, captions, probabilities)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def fingerprint(self) -> str:
        """Of all verdicts: who says of which pair with which probability; 32 hexadecimal digits."""
        state = hashlib.blake2b("\0".join(self.names).encode(), digest_size=16)
        for column in (self.image_ids, self.caption_ids, self.probabilities, self.judges):
            state.update(np.ascontiguousarray(column).data)
        return state.hexdigest()

    def of_pictures(self, image_ids: np.ndarray, keys: np.ndarray) -> "VerdictIndex":
        """The same verdicts, each on the picture that its image id stands for: one on a copy holds for all copies.

        Args:
            image_ids: Image id of each row of a table, int64 [N].
            keys: Key of the picture of each row, int64 [N]; image ids of no row stay as they are.
        """
        copies = image_ids != keys
        if not copies.any():
            return self
        known, first = np.unique(image_ids[copies], return_index=True)
        place = np.minimum(np.searchsorted(known, self.image_ids), len(known) - 1)
        images = np.where(known[place] == self.image_ids, keys[copies][first][place], self.image_ids)
        people_last = np.argsort(self.said_by("people"), kind="stable")  # the last of a pair counts
        captions, probabilities = self.caption_ids[people_last], self.probabilities[people_last]
        return VerdictIndex(images[people_last], captions, probabilities, self.judges[people_last], self.names)

    def people(self) -> "VerdictIndex":
        """The verdicts of people alone."""
        said = self.said_by("people")
        images, captions, probabilities = self.image_ids[said], self.caption_ids[said], self.probabilities[said]
        return VerdictIndex(images, captions, probabilities, self.judges[said], self.names)

    def said_by(self, who: Literal["people", "judges"] | None) -> np.ndarray:
        """Which of the verdicts [N] people gave, or judges; all for None."""
        if who is None:
            return np.ones(len(self), dtype=bool)
        said: np.ndarray = _are_people(self.names)[self.judges] == (who == "people")
        return said

    def about(self, image_ids: np.ndarray, caption_ids: np.ndarray) -> np.ndarray:
        """Which of the verdicts [N] are about an image and a caption of these, int64 [I] and [C]."""
        about: np.ndarray = np.isin(self.image_ids, image_ids) & np.isin(self.caption_ids, caption_ids)
        return about

    def within(
        self, image_ids: Tensor, caption_ids: Tensor, *, by: Literal["people", "judges"] | None = None
    ) -> PairSet:
        """The (row, column) cells of a batch that have a verdict, with its probability.

        Args:
            image_ids: Image id of each row, int64 [R].
            caption_ids: Caption id of each column, int64 [C].
            by: Only verdicts of people, or of judges.
        """
        cells, verdicts = self._within(image_ids, caption_ids)
        if by is None:
            return cells
        return cells.where(torch.from_numpy(self.said_by(by)[verdicts]).to(cells.rows.device))

    def record(self, ledger: Ledger, image_ids: Tensor, caption_ids: Tensor, epoch: int) -> None:
        """Write the verdicts on undeclared pairs of a batch into another ledger, each once, whenever they meet.

        Args:
            ledger: Of a run that reads these verdicts.
            image_ids: Image id of each pair of the batch, int64 [B].
            caption_ids: Caption id of each pair, int64 [B].
            epoch: Of the run.
        """
        cells, verdicts = self._within(image_ids, caption_ids)
        others = verdicts[(cells.rows != cells.columns).cpu().numpy()]
        for judge in np.unique(self.judges[others]):
            of_judge = others[self.judges[others] == judge]
            columns = (self.image_ids[of_judge], self.caption_ids[of_judge], self.probabilities[of_judge])
            ledger.record(*map(torch.from_numpy, columns), judge=self.names[judge], epoch=epoch, once=True)

    def _within(self, image_ids: Tensor, caption_ids: Tensor) -> tuple[PairSet, np.ndarray]:
        """The cells of a batch that have a verdict, and the number of each cell's verdict [P]."""
        latest = self._latest
        if latest is not None and latest[0] is image_ids and latest[1] is caption_ids:
            return latest[2], latest[3]  # several rules read one ledger
        images, captions = image_ids.cpu().numpy(), caption_ids.cpu().numpy()
        first, last = (np.searchsorted(self.image_ids, images, side) for side in ("left", "right"))
        rows, verdicts = ranges(first, last - first)  # every verdict on every image of the batch
        order = np.argsort(captions, kind="stable")
        first, last = (np.searchsorted(captions[order], self.caption_ids[verdicts], side) for side in ("left", "right"))
        which, columns = ranges(first, last - first)
        cells = torch.from_numpy(np.stack([rows[which], order[columns]])).to(image_ids.device)
        numbers: np.ndarray = verdicts[which]
        probabilities = torch.from_numpy(self.probabilities[numbers]).to(image_ids.device)
        found = PairSet(cells[0], cells[1], probabilities, (len(images), len(captions)))
        self._latest = (image_ids, caption_ids, found, numbers)
        return found, numbers


def open_index(ledger: str | Path) -> VerdictIndex:
    """The index of a ledger; rules that name the same one share it, as long as its files stay as they are.

    Of one that says what it stands on, that judge's verdicts and those of people count, no others.

    Raises:
        DataError: There is no ledger, or it cannot be read.
    """
    folder = Path(ledger)
    files = [folder] if folder.is_file() else [path for path, _, _ in _parts(folder)]
    standing = None if folder.is_file() else Standing.load(folder)
    states = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _open_index(str(ledger), states, None if standing is None else standing.judge)


@lru_cache(maxsize=4)
def _open_index(ledger: str, files: tuple[tuple[str, int, int], ...], judge: str | None) -> VerdictIndex:
    table = read_ledger(ledger)
    if judge is None:
        return VerdictIndex.from_table(table)
    counted = verdicts_of(table, judge)
    if not len(counted):
        raise DataError(
            f"{ledger} has no verdict of {judge}, whom its {STANDING_FILE} names; run truepair review again"
        )
    return VerdictIndex.from_table(counted)


def verdicts_of(table: pa.Table, judge: str) -> pa.Table:
    """The verdicts of one judge, and those of people.

    Args:
        table: From :func:`read_ledger`.
        judge: Its name.
    """
    return table.filter(pc.or_(pc.equal(table["judge"], judge), pc.starts_with(table["judge"], PERSON)))


class _KeySet:
    """Numbers that were added, in sorted runs each more than twice as long as the next; 8 bytes each, no loop."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: np.ndarray) -> Tensor:
        """Add numbers [P]; places of those that are new, each once, in rising order [<= P]."""
        distinct, first = np.unique(keys, return_index=True)
        known = np.zeros(len(distinct), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, distinct), len(run) - 1)
            known |= run[places] == distinct
        new = distinct[~known]
        if len(new):
            self._runs.append(new)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) >= len(self._runs[-2]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]))]
        return torch.from_numpy(np.sort(first[~known]))


def _are_people(judges: Sequence[str]) -> np.ndarray:
    """Which names of judges are those of people, bool [J]."""
    return np.array([judge.startswith(PERSON) for judge in judges], dtype=bool)


def _keys(image_ids: Tensor, caption_ids: Tensor, judge: str) -> np.ndarray:
    """A number for each pair and judge [P]; among ten million pairs, two share one with a chance of 3 in a million."""
    keys: np.ndarray = sample_keys(stable_hash(judge), image_ids.cpu(), caption_ids.cpu()).numpy()
    return keys


def _keys_of_table(table: pa.Table) -> np.ndarray:
    names = table["judge"].combine_chunks().dictionary_encode()
    of_name, keys = names.indices.to_numpy(), np.zeros(len(table), dtype=np.int64)
    images, captions = (torch.from_numpy(table[name].to_numpy().copy()) for name in ("image_id", "caption_id"))
    for number, judge in enumerate(names.dictionary.to_pylist()):
        here = np.flatnonzero(of_name == number)
        keys[here] = _keys(images[here], captions[here], judge)
    return keys


def _parts(folder: Path) -> list[tuple[Path, int, int]]:
    """Path, rank and number of every part file."""
    if not folder.is_dir():
        return []
    found = ((path, _PART.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [(path, int(match[1]), int(match[2])) for path, match in found if match]


def _read(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        if "detector" in table.column_names:
            table = _of_first_edition(table)
        return table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file} is not a part of a ledger ({error}); remove it or restore it.") from error


def _of_first_edition(table: pa.Table) -> pa.Table:
    """The verdicts of judges in a table of detectors, scores and actions."""
    detector = table["detector"]
    judged = pc.or_(pc.starts_with(detector, "con_d"), pc.starts_with(detector, "mined:"))
    table = table.filter(judged)
    names = pc.replace_substring_regex(table["detector"], "^con_d", "judge")
    columns = [table["image_id"], table["caption_id"], names, table["score"], table["epoch"]]
    return pa.table([*columns, pa.nulls(len(table), pa.timestamp("ms"))], schema=SCHEMA)


def _milliseconds(table: pa.Table) -> np.ndarray:
    """Time of each verdict; 0 where it has none."""
    times = pc.fill_null(pc.cast(table["time"], pa.int64()), 0)
    milliseconds: np.ndarray = times.to_numpy()
    return milliseconds


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_aside(table: pa.Table, target: Path) -> None:
    """Write a file so that it is there as a whole or not at all."""
    with writing_file(target) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
