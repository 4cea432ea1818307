"""The pairs that a judge or an earlier ledger turned into positives in a run, and what the known truth says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.evaluation.truth import Truth, Verdict
from truepair.methods.recipe import PretrainRecipe
from truepair.relations.actions import Relabel
from truepair.relations.detectors import Judged, Recorded
from truepair.relations.ledger import PERSON, read_verdicts
from truepair.relations.zones import Zone

_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Conversions:
    """The converted pairs of a run, each (image id, caption id) once, as its first conversion found it.

    Attributes:
        images: row of each image in the training table, int64 [P].
        captions: row that each caption is declared in, int64 [P].
        places: which of its row's captions each caption is, int64 [P].
        scores: the judge's match probability, float32 [P].
        epochs: epoch of the first conversion, from 0, int32 [P].
        verdicts: what the known truth says, words of :data:`truepair.evaluation.truth.Verdict` [P].
        recall: of the false negatives that met in a batch, the share that was converted, over all epochs of the log;
            None where the truth is not known.
    """

    images: _Indices
    captions: _Indices
    places: _Indices
    scores: NDArray[np.float32]
    epochs: NDArray[np.int32]
    verdicts: NDArray[np.str_]
    recall: float | None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def true(self) -> int:
        """How many are known to match."""
        return int((self.verdicts == "true").sum())

    @property
    def judged(self) -> int:
        """Of how many the truth is known."""
        return int((self.verdicts != "unknown").sum())

    @property
    def precision(self) -> float | None:
        """Share of matches among those whose truth is known, near-matches being none; None if it is known of none."""
        return self.true / self.judged if self.judged else None

    def verdict(self, number: int) -> Verdict:
        """What the known truth says of one pair."""
        return cast("Verdict", str(self.verdicts[number]))

    def draw(self, count: int, seed: int = 0) -> _Indices:
        """Numbers of some pairs, drawn at random without repeats, int64 [<= count]."""
        return np.random.default_rng(seed).permutation(len(self))[:count]


def read_conversions(
    run_folder: Path, table: PairTable, log: Iterable[Mapping[str, Any]], recipe: PretrainRecipe
) -> Conversions | None:
    """Read the conversions of a run.

    Args:
        run_folder: with the run's ``ledger/``.
        table: the run's training pairs.
        log: records of the run, as ``read_log`` gives them.
        recipe: of the run; its zones and rules say which verdicts became matches.

    Returns:
        The converted pairs; None if no judge spoke in this run, or no ledger was kept.

    Raises:
        DataError: the ledger cannot be read, or is one of other data.
    """
    if not any((run_folder / "ledger").glob("*.parquet")):
        return None
    verdicts = read_verdicts(run_folder / "ledger")
    converted = _first_of_each(verdicts.filter(pa.array(_relabelled(verdicts, recipe))))
    images = _rows_of(
        np.asarray(table.rows["image_id"], np.int64), converted["image_id"].to_numpy(), "image", run_folder
    )
    owners, places, ids, keys = _captions(table)
    numbers = _rows_of(ids, converted["caption_id"].to_numpy(), "caption", run_folder)  # [P]
    return Conversions(
        images=images,
        captions=owners[numbers],
        places=places[numbers],
        scores=converted["probability"].to_numpy(),
        epochs=converted["epoch"].to_numpy(),
        verdicts=Truth.of_table(table).verdicts(torch.from_numpy(images), torch.from_numpy(keys[numbers])),
        recall=_recall(log),
    )


def rule_counts(log: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """How many cells of batches each rule of a run found, over all epochs of its log; the same pair may meet again.

    Args:
        log: records of the run, as ``read_log`` gives them.

    Returns:
        (detector, action) -> cells.
    """
    counts: dict[tuple[str, str], int] = {}
    for record in log:
        if record["kind"] == "epoch":
            for name, value in record.items():
                if name.startswith("relations/") and name.count("/") == 2:
                    _, detector, action = name.split("/")
                    counts[detector, action] = counts.get((detector, action), 0) + round(value)
    return counts


def _relabelled(verdicts: pa.Table, recipe: PretrainRecipe) -> NDArray[np.bool_]:
    """Which verdicts [N] a run's zones and rules made matches; its own judge's are told from recorded ones by name."""
    ecm = recipe.ecm
    probabilities = torch.from_numpy(verdicts["probability"].to_numpy().copy())
    own = np.zeros(len(verdicts), dtype=bool)
    if ecm is not None:
        own = pc.starts_with(verdicts["judge"], "judge:").to_numpy(zero_copy_only=False)
    people = pc.starts_with(verdicts["judge"], PERSON).to_numpy(zero_copy_only=False)
    found = np.zeros(len(verdicts), dtype=bool)
    for rule in [*recipe.relations.built, *([] if ecm is None else ecm.rules())]:
        detector = rule.detector
        if isinstance(rule.action, Relabel) and isinstance(detector, Judged | Recorded):
            who = own if isinstance(detector, Judged) else ~own
            if isinstance(detector, Recorded) and detector.by is not None:
                who &= people == (detector.by == "people")
            found |= detector.contains(probabilities).numpy() & who
    if ecm is not None and ecm.ask == "hardest":
        found |= own & (ecm.zones.of(probabilities) == Zone.MATCH).numpy()
    return found


def _first_of_each(verdicts: pa.Table) -> pa.Table:
    """Of each (image, caption) the verdict of the earliest epoch, ordered by image and caption."""
    image, caption, epoch = (verdicts[name].to_numpy() for name in ("image_id", "caption_id", "epoch"))
    order = np.lexsort((epoch, caption, image))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(image[order]) != 0) | (np.diff(caption[order]) != 0)
    return verdicts.take(pa.array(order[first]))


def _captions(table: PairTable) -> tuple[_Indices, _Indices, _Indices, _Indices]:
    """Row, place in its row, id and key of every caption of the table, each int64 [number of captions]."""
    texts: list[list[str]] = list(table.rows["captions"])
    cells = [(row, place) for row, of_row in enumerate(texts) for place in range(len(of_row))]
    owners, places = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ids = np.array([number for of_row in table.rows["caption_ids"] for number in of_row], dtype=np.int64)
    keys = np.array([table.caption_key(text) for of_row in texts for text in of_row], dtype=np.int64)
    return owners, places, ids, keys


def _rows_of(known: _Indices, asked: _Indices, what: str, run_folder: Path) -> _Indices:
    """Where each id stands first among the known ones.

    Raises:
        DataError: an id is unknown.
    """
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[order], asked), len(known) - 1)
    rows: _Indices = order[place]
    if not np.array_equal(known[rows], asked):
        stranger = asked[known[rows] != asked][0]
        raise DataError(f"{run_folder / 'ledger'} knows {what} id {stranger}, which the pairs lack; give the run's")
    return rows


def _recall(log: Iterable[Mapping[str, Any]]) -> float | None:
    """Right conversions among all false negatives of the batches, summed over the epochs of a log."""
    epochs = [record for record in log if record["kind"] == "epoch" and "ecm/conversions_batch_true" in record]
    met = sum(record["ecm/conversions_batch_true"] for record in epochs)
    return sum(record["ecm/conversions_right"] for record in epochs) / met if met else None
