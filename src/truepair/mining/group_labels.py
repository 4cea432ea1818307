"""Labels from a column of groups, such as a shop's article numbers: pictures of one group match each other's captions.

The same group is a match, two known groups that differ are none, and a row without a group says nothing. They are
labels of a column, never a person's answers.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from truepair.errors import ConfigError, nearest
from truepair.files import writing_file
from truepair.judges.answered import AnsweredFit, Standardised, fit_answered
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Gallery, Integers

LABELS = "labels.parquet"

_CERTAIN = 8.0  # log-odds of a labelled cell: what people say of others must not move it far
_FITTED = 20_000  # labels that the judge is fitted on at most
_OWN = frozenset({"image", "image_id", "captions", "caption_ids", "split", "names"})  # columns that state no groups


@dataclass(frozen=True)
class GroupLabels:
    """Cells whose groups are known on both sides.

    Attributes:
        column: where the groups stand.
        cells: numbers of the candidates, rising [L].
        matches: whether the groups are the same, bool [L].
    """

    column: str
    cells: Integers
    matches: NDArray[np.bool_]


def groups_of_pictures(gallery: Gallery, column: str) -> NDArray[np.int64]:
    """Number of each picture's group, -1 where none is stated, int64 [N].

    Raises:
        ConfigError: there is no such column, a picture has two groups, or no two pictures share one.
    """
    table = gallery.table
    columns = [name for name in table.rows.column_names if name not in _OWN]
    others = ", ".join(name for name in columns if name != column) or "none"
    there = f"other columns of {table.name}: {others}"
    if column not in columns:
        raise ConfigError(f"{table.name} has no column '{column}' of groups{nearest(column, columns)}; {there}")
    numbers: dict[str, int] = {}
    found = np.full(len(gallery), -1, np.int64)
    for row, (picture, value) in enumerate(zip(table.pictures.tolist(), table.values(column), strict=True)):
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        number = numbers.setdefault(text, len(numbers))
        if found[picture] not in (-1, number):
            before = list(numbers)[found[picture]]
            raise ConfigError(
                f"column '{column}' puts the picture of row {row} into two groups, {before!r} and {text!r}; mend it or "
                f"give another; {there}"
            )
        found[picture] = number
    if len(numbers) == int((found >= 0).sum()):
        what = "states no group" if not numbers else "has a group of its own for each picture"
        raise ConfigError(f"column '{column}' {what}, so it says of no two that they match; {there}")
    return found


def label_candidates(candidates: Candidates, groups: NDArray[np.int64], column: str) -> GroupLabels:
    """The cells of which the groups say whether they match.

    A caption may be declared for pictures of several groups, all of which it is then true of; it is no match of another
    group only if the groups of all its pictures are known.

    Args:
        candidates: of the gallery that the groups are of.
        groups: of each picture [N].
        column: where they stand.
    """
    owners = candidates.owners.some(candidates.captions)  # every picture of each cell's caption
    cell, of_owner = owners.owners, groups[owners.values]
    mine = groups[candidates.pictures]
    same = np.bincount(cell, weights=(of_owner == mine[cell]) & (of_owner >= 0), minlength=len(candidates)) > 0
    unknown = np.bincount(cell, weights=of_owner < 0, minlength=len(candidates)) > 0
    cells = np.flatnonzero((mine >= 0) & (same | ~unknown))
    return GroupLabels(column, cells, same[cells])


def by_labels(
    candidates: Candidates, labels: GroupLabels, seed: int = 0
) -> tuple[Candidates, GroupLabels, AnsweredFit]:
    """Candidates in the order of a judge fitted on labels, which takes the place of the shipped prior.

    Args:
        candidates: with that prior.
        labels: at least one.
        seed: of the random labels that it is fitted on, where there are more than 20,000.

    Returns:
        The candidates, the same labels of them, and the fit.
    """
    some = np.arange(len(labels.cells))
    if len(some) > _FITTED:
        some = np.sort(np.random.default_rng(seed).choice(some, _FITTED, replace=False))
    cells, shares = labels.cells[some], labels.matches[some].astype(np.float64)
    signals = Standardised.of(candidates.signals)
    fit = fit_answered(candidates.names, signals, candidates.prior, cells, shares, candidates.pictures[cells])
    log_odds = fit.judge.log_odds_of(signals.values, candidates.prior).astype(np.float32)
    log_odds[labels.cells] = np.where(labels.matches, _CERTAIN, -_CERTAIN)
    order = np.argsort(-log_odds, kind="stable")
    label = np.full(len(candidates), -1, np.int64)
    label[labels.cells] = labels.matches
    moved = label[order]
    kept = np.flatnonzero(moved >= 0)
    ordered = replace(
        candidates,
        pictures=candidates.pictures[order],
        captions=candidates.captions[order],
        signals=np.ascontiguousarray(candidates.signals[order]),
        prior=log_odds[order],
    )
    return ordered, GroupLabels(labels.column, kept, moved[kept] == 1), fit


def save_labels(candidates: Candidates, labels: GroupLabels, folder: Path) -> None:
    """Write ``labels.parquet``: what the column says of which candidates.

    Raises:
        OSError: the disk refuses.
    """
    pictures, captions = candidates.pictures[labels.cells], candidates.captions[labels.cells]
    columns = {
        "image": pa.array(candidates.paths, pa.string()).take(pa.array(pictures)),
        "caption": pa.array(candidates.texts, pa.string()).take(pa.array(captions)),
        "picture_number": pictures,
        "caption_number": captions,
        "match": labels.matches,
        "column": pa.repeat(labels.column, len(pictures)),
    }
    with writing_file(folder / LABELS, error=None) as opened:
        pq.write_table(pa.table(columns), opened, compression="zstd")
