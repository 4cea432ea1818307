"""What is known of the cells of a ledger: declared, a match, doubtful, or a negative, and by whose word."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from truepair.errors import ConfigError, DataError
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Integers, Lists
from truepair.relations.ledger import PERSON
from truepair.relations.ranges import starts_of
from truepair.relations.standing import Certificate, Standing
from truepair.relations.zones import Zone

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]
Say = Callable[[str], None]

DECLARED = len(Zone) - 1
"""Of the source itself; the further values of :attr:`Known.kinds` are those of :class:`Zone`."""

WORDS = {int(Zone.NEGATIVE): "negative", int(Zone.DOUBTFUL): "doubtful", int(Zone.MATCH): "match", DECLARED: "declared"}
"""The kinds of cells in words."""


@dataclass(frozen=True)
class Known:
    """K cells of which something is known, in the order of their pictures and captions.

    Attributes:
        pictures: number of each cell's picture, int64 [K].
        captions: number of its caption [K].
        kinds: a :class:`Zone`, or DECLARED, int64 [K].
        probabilities: by the word that counts: a judge's, or the share of the people asked who said yes; NaN where
            nobody's does, float32 [K].
        scores: what the judge said, whatever people did; NaN where it said nothing, float32 [K].
        judges: whose word counts; None for nobody's, K.
        certified: the certificate holds for it, bool [K].
    """

    pictures: Integers
    captions: Integers
    kinds: Integers
    probabilities: Floats
    scores: Floats
    judges: list[str | None]
    certified: Flags

    def are(self, *kinds: int) -> Flags:
        """Which cells are of some kinds, bool [K]."""
        found: Flags = np.isin(self.kinds, kinds)
        return found


@dataclass(frozen=True, kw_only=True)
class Standard:
    """From where on a judge's word makes a match, and below what a negative.

    Attributes:
        judge: its name; None for nobody but people.
        low: a negative has a probability below it.
        high: a match has this probability at least; None where only people make one.
        certificate: of this judge; None where there is none.

    Raises:
        ConfigError: not 0 < low <= high <= 1.
    """

    judge: str | None
    low: float
    high: float | None
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        high = 1.0 if self.high is None else self.high
        if not 0 < self.low <= high <= 1:
            raise ConfigError(f"an export needs 0 < low <= high <= 1, but low is {self.low:g} and high {high:g}")

    @classmethod
    def of_ledger(
        cls,
        verdicts: pa.Table,
        standing: Standing | None,
        *,
        low: float,
        high: float | None,
        judge: str | None,
        say: Say,
    ) -> "Standard":
        """What a ledger stands on decides, unless the caller does.

        Args:
            verdicts: of the ledger.
            standing: of the ledger; None where it has none.
            low: see above.
            high: in place of the certificate's threshold; None leaves it at that.
            judge: the judge meant; None for that of the standing, or the only one.
            say: prints a line.

        Raises:
            ConfigError: it is not clear which judge is meant, it is unknown, or a threshold is out of order.
        """
        names = [name for name in sorted(pc.unique(verdicts["judge"]).to_pylist()) if not name.startswith(PERSON)]
        if judge is not None and judge not in names:
            raise ConfigError(f"the ledger has no judge {judge}; it has {', '.join(names) or 'people alone'}")
        certificate = standing.certificate if standing is not None else None
        if judge is None and standing is not None:
            judge = certificate.judge if certificate is not None else standing.judge
        elif judge is None and len(names) > 1:
            raise ConfigError(f"the ledger has verdicts of {', '.join(names)}; say by --judge whose count")
        elif judge is None:
            judge = names[0] if names else None
        if certificate is not None and certificate.judge != judge:
            say(f"the certificate is of {certificate.judge}, so it says nothing of {judge}")
            certificate = None
        if certificate is not None and high is None:
            say(f"matches are certified, or people said yes to them: {certificate.sentence()}")
            return cls(judge=judge, low=low, high=certificate.threshold, certificate=certificate)
        if high is None:
            say("there is no certificate, so matches are what people said yes to, alone; --high P takes a judge's word")
        elif certificate is None:
            say(f"--high {high:g}: matches are by {judge or 'people alone'}, on no certificate")
        else:
            say(f"--high {high:g} in place of the certified {certificate.threshold:.3g}: {certificate.sentence()}")
        return cls(judge=judge, low=low, high=high, certificate=certificate)


def known_cells(candidates: Candidates, verdicts: pa.Table, standard: Standard, say: Say) -> Known:
    """What source and ledger together say of each cell.

    The word of people counts before that of judges; where they disagree, the cell is doubtful. A negative is one that
    people refused, or of which the judge that counts has spoken and no judge gives more than ``low``. A declared pair
    stays one unless people refused it. Of a cell with several ids, the lowest probability makes a match and the highest
    keeps it from being a negative.

    Args:
        candidates: pictures and captions, with their ids; the cells are not read.
        verdicts: from :func:`truepair.relations.ledger.read_ledger`.
        standard: what makes a match.
        say: prints a line.

    Raises:
        DataError: no verdict is about these pictures and captions.
    """
    told = _told(candidates, verdicts, say)
    width = len(candidates.texts)
    cell = told["picture"].to_numpy() * width + told["caption"].to_numpy()  # [V]
    own = candidates.own.owners * width + candidates.own.values  # [D]
    cells, place = np.unique(np.concatenate([cell, own]), return_inverse=True)  # [K], [V + D]
    judged, declared = place[: len(cell)], np.zeros(len(cells), bool)
    declared[place[len(cell) :]] = True

    probability = told["probability"].to_numpy()
    of_person = pc.starts_with(told["judge"], PERSON).to_numpy()  # [V]
    says = probability >= 0.5
    yes, no = (np.bincount(judged[of_person & word], minlength=len(cells)) for word in (says, ~says))
    counts = pc.equal(told["judge"], standard.judge).to_numpy() if standard.judge is not None else ~of_person
    scores, highest = (np.full(len(cells), np.nan, np.float32) for _ in range(2))
    np.fmin.at(scores, judged[counts], probability[counts])
    np.fmax.at(highest, judged[~of_person], probability[~of_person])

    asked, agreed = yes + no > 0, (yes == 0) | (no == 0)
    match = np.zeros(len(cells), bool) if standard.high is None else ~asked & (scores >= standard.high)
    refused = asked & agreed & (no > 0)
    kinds = np.full(len(cells), int(Zone.DOUBTFUL))
    kinds[refused | ~asked & (scores < standard.low) & (highest < standard.low)] = int(Zone.NEGATIVE)
    kinds[match | asked & agreed & (yes > 0)] = int(Zone.MATCH)
    kinds[declared & ~refused] = DECLARED
    if (declared & refused).any():
        say(f"{int((declared & refused).sum()):,} declared pairs that people refused are left out")
    if (asked & ~agreed).any():
        say(f"of {int((asked & ~agreed).sum()):,} pairs some said yes and some no: they are doubtful")
    certificate = standard.certificate
    return Known(
        pictures=cells // width,
        captions=cells % width,
        kinds=kinds,
        probabilities=np.where(asked, yes / np.maximum(yes + no, 1), scores).astype(np.float32),
        scores=scores,
        judges=_whose(told["judge"].filter(pa.array(of_person)), judged[of_person], scores, standard.judge),
        certified=~asked & ~declared & (scores >= (np.inf if certificate is None else certificate.threshold)),
    )


def _told(candidates: Candidates, verdicts: pa.Table, say: Say) -> pa.Table:
    """The verdicts with numbers of their pictures and captions in place of ids; those of other ids are left out."""
    columns = verdicts.select(["image_id", "caption_id", "judge", "probability"])
    known = pc.and_(
        pc.is_in(columns["image_id"], value_set=pa.array(candidates.image_ids.values)),
        pc.is_in(columns["caption_id"], value_set=pa.array(candidates.caption_ids.values)),
    )
    columns = columns.filter(known)
    if len(columns) == 0:
        raise DataError("no verdict of the ledger is about the pictures and captions of this source; give its own")
    if len(columns) < len(verdicts):
        say(f"{len(verdicts) - len(columns):,} verdicts are left out: they are about nothing of this source")
    for name, lists in (("picture", candidates.image_ids), ("caption", candidates.caption_ids)):
        key = "image_id" if name == "picture" else "caption_id"
        columns = columns.join(pa.table({key: lists.values, name: lists.owners}), key, join_type="inner")
    return columns


def _whose(people: pa.ChunkedArray, judged: Integers, scores: Floats, judge: str | None) -> list[str | None]:
    """Whose word counts for each cell: that of all people asked, else the judge's."""
    asked: dict[int, set[str]] = defaultdict(set)
    for cell, name in zip(judged.tolist(), people.to_pylist(), strict=True):
        asked[cell].add(name)
    said = np.isfinite(scores).tolist()
    return [
        ", ".join(sorted(asked[cell])) if cell in asked else judge if said[cell] else None for cell in range(len(said))
    ]


def hardest_negatives(known: Known, pictures: Integers, count: int, usable: Flags) -> Integers:
    """The captions known not to match a picture that the judge took for the likeliest.

    Args:
        known: the cells.
        pictures: asked about [R].
        count: how many captions of each.
        usable: captions that may be taken, bool [M].

    Returns:
        Numbers of captions, the hardest first [R, count]; -1 where there is none. One that people refused without a
        judge having spoken is the last to be taken.
    """
    cells = np.flatnonzero(known.are(Zone.NEGATIVE) & usable[known.captions])
    order = np.lexsort((-np.nan_to_num(known.scores[cells], nan=-1.0), known.pictures[cells]))
    cells = cells[order]
    first, last = (np.searchsorted(known.pictures[cells], pictures, side) for side in ("left", "right"))
    place = first[:, None] + np.arange(count)  # [R, count]
    there = place < last[:, None]
    captions = np.append(known.captions[cells], -1)
    return np.asarray(captions[np.where(there, place, len(cells))], np.int64)


def groups_of(
    known: Known, pictures: Integers, captions: Integers, negatives: Integers, shape: tuple[int, int]
) -> Lists:
    """Ids for the rows of a training set, so that two rows share one exactly if they must not meet in a batch.

    They must not meet if the picture of one is declared for a caption of the other, its negatives included, or matches
    it, or may. As this is no equivalence (that a may not meet b, nor b c, says nothing of a and c), a row has several
    ids. There is one for each such cell of a picture and a positive: the rows of either have it, any two of which have
    reason to stay apart. Where the rows of the one are all among those of the other, those alone decide. A negative
    gives an id to its row and the rows of each picture that it may be true of: two rows may have one negative.

    Args:
        known: the cells.
        pictures: of the rows [R].
        captions: their positives [R].
        negatives: captions that are their negatives [R, C].
        shape: how many pictures and captions there are.

    Returns:
        Ids of each row, R lists, none of them empty.
    """
    count, (n, m) = len(pictures), shape
    apart = known.are(DECLARED, Zone.MATCH, Zone.DOUBTFUL)
    picture, caption = known.pictures[apart], known.captions[apart]  # [A]
    rows = np.arange(count)
    with_picture, with_caption = _dealt(pictures, rows, n), _dealt(captions, rows, m)
    both, many = np.unique(pictures * m + captions, return_counts=True)
    place = np.searchsorted(both, picture * m + caption).clip(max=len(both) - 1)
    shared = np.where(both[place] == picture * m + caption, many[place], 0)  # rows of both
    keys = np.where(
        shared == with_caption.counts[caption],
        picture,
        np.where(shared == with_picture.counts[picture], n + caption, n + m + np.arange(len(picture))),
    )
    keys, first = np.unique(keys, return_index=True)
    of_picture, of_caption = _members(with_picture, picture[first]), _members(with_caption, caption[first])

    place, true_of = _members(_dealt(caption, picture, m), negatives.ravel())
    picture_and_row = np.unique(true_of * count + place // max(negatives.shape[1], 1))
    number, member = _members(with_picture, picture_and_row // count)
    key = np.concatenate(
        [of_picture[0], of_caption[0], len(keys) + number, len(keys) + np.arange(len(picture_and_row))]
    )
    member = np.concatenate([of_picture[1], of_caption[1], member, picture_and_row % count])

    width = len(keys) + len(picture_and_row) + count
    member, key = np.divmod(np.unique(member * width + key), width)
    kept = np.bincount(key)[key] > 1
    member, key = member[kept], key[kept]
    alone = np.setdiff1d(rows, member)  # a row that may meet all others has an id of its own
    key = np.concatenate([key, width - count + alone])
    return _dealt(np.concatenate([member, alone]), np.unique(key, return_inverse=True)[1], count)


def _dealt(owners: Integers, values: Integers, count: int) -> Lists:
    """Lists of the values of each owner, of which none has one twice."""
    return Lists(starts_of(np.bincount(owners, minlength=count)), values[np.argsort(owners, kind="stable")])


def _members(lists: Lists, which: Integers) -> tuple[Integers, Integers]:
    """The values of some lists, and the place of each value's list in ``which``."""
    found = lists.some(which)
    return found.owners, found.values
