"""What is known to be true between images and captions: one truth, several views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.errors import DataError
from truepair.relations.pairs import PairSet, same_pair
from truepair.relations.text import caption_key, normalise_caption


class TruthTable(Protocol):
    """What is read of a table of pairs, such as ``PairTable``."""

    @property
    def rows(self) -> Any:
        """Its rows, with ``column_names``."""
        ...

    def __len__(self) -> int: ...

    def values(self, name: str) -> list[Any]:
        """The values of a column."""
        ...


class TruthBatch(Protocol):
    """What is read of a batch of B pairs, such as ``PairBatch``."""

    @property
    def source_index(self) -> Tensor:
        """Rows of the table, int64 [B]."""
        ...

    @property
    def image_id(self) -> Tensor:
        """int64 [B]."""
        ...

    @property
    def caption_key(self) -> Tensor:
        """Key of each normalised caption text, int64 [B]."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class MatchLists:
    """For each of Q queries the candidates it is related to, in compressed sparse row form.

    Attributes:
        offsets: int64 [Q + 1]; the list of query q is ``members[offsets[q]:offsets[q + 1]]``.
        members: int64 [M]; candidate numbers, ascending within a list.
    """

    offsets: Tensor  # [Q + 1]
    members: Tensor  # [M]

    @classmethod
    def from_pairs(cls, queries: Tensor, members: Tensor, count: int) -> "MatchLists":
        """Group pairs by query.

        Args:
            queries: int64 [M], each in ``0..count - 1``.
            members: int64 [M], the candidate of each pair.
            count: number of queries Q.
        """
        order = torch.argsort(members, stable=True)
        order = order[torch.argsort(queries[order], stable=True)]
        sizes = torch.bincount(queries, minlength=count)  # [Q]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return cls(offsets=offsets, members=members[order])

    @property
    def sizes(self) -> Tensor:
        """Length of each list, int64 [Q]."""
        return self.offsets[1:] - self.offsets[:-1]

    def select(self, queries: Tensor) -> "MatchLists":
        """The lists of some queries, in the order given.

        Args:
            queries: int64 [q].
        """
        sizes = self.sizes[queries]  # [q]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        owner = torch.repeat_interleave(torch.arange(len(queries)), sizes)  # [m]
        position = torch.arange(len(owner)) - offsets[owner] + self.offsets[queries][owner]
        return MatchLists(offsets=offsets, members=self.members[position])

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """All lists as (query [M], position within its list [M], candidate [M])."""
        query = torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)
        position = torch.arange(len(self.members)) - self.offsets[query]
        return query, position, self.members


Direction = Literal["i2t", "t2i"]


@dataclass(frozen=True)
class QuerySet:
    """The queries of one direction, each with the candidates that answer it.

    Attributes:
        rows: int64 [Q], ascending; the image (i2t) or caption (t2i) each query asks with. One row may serve several
            queries.
        answers: the right candidates of each query; never empty.
        ignored: candidates taken out of each query's ranking.
        left_out: rows that have no right candidate, and therefore ask nothing.
    """

    rows: Tensor  # [Q]
    answers: MatchLists
    ignored: MatchLists
    left_out: int


class RetrievalTruth:
    """The known many-to-many truth between I images and T captions.

    All three relations are sparse: int64 [N, 2] tensors of (image, caption) numbers, sorted, without repeats.

    Attributes:
        images: number of images I.
        captions: number of captions T.
        own: pairs as the data set declares them.
        true: all pairs known to match, own pairs included.
        ignored: pairs that are neither right nor wrong (near-matches); strict scores leave them out of the ranking.
    """

    def __init__(
        self, images: int, captions: int, own: Tensor, true: Tensor | None = None, ignored: Tensor | None = None
    ) -> None:
        """Check and store the three relations.

        Args:
            images: number of images I.
            captions: number of captions T.
            own: [N, 2] integer (image, caption) pairs.
            true: further true pairs; the own pairs are added. None: only the own pairs are true.
            ignored: pairs to leave out; none by default.

        Raises:
            DataError: if a pair is out of range, or is both true and ignored.
        """
        self.images = images
        self.captions = captions
        empty = torch.empty(0, 2, dtype=torch.int64)
        keys = {
            name: self._keys(name, empty if pairs is None else pairs)
            for name, pairs in (("own", own), ("true", true), ("ignored", ignored))
        }
        true_keys = torch.cat([keys["own"], keys["true"]]).unique()
        both = torch.isin(true_keys, keys["ignored"])
        if both.any():
            image, caption = self._pairs(true_keys[both])[0].tolist()
            raise DataError(
                f"pair (image {image}, caption {caption}) is both true and ignored; drop it from one of the two lists"
            )
        self.own = self._pairs(keys["own"])  # [N, 2]
        self.true = self._pairs(true_keys)  # [M, 2]
        self.ignored = self._pairs(keys["ignored"])  # [K, 2]

    def queries(self, direction: Direction) -> QuerySet:
        """One query for each image (i2t) or caption (t2i) with a true match; every true match answers it."""
        rows, columns, count = self._oriented(self.true, direction)
        ignored_rows, ignored_columns, _ = self._oriented(self.ignored, direction)
        answers = MatchLists.from_pairs(rows, columns, count)
        ignored = MatchLists.from_pairs(ignored_rows, ignored_columns, count)
        asked = answers.sizes.nonzero().flatten()  # [Q]
        return QuerySet(
            rows=asked,
            answers=answers.select(asked),
            ignored=ignored.select(asked),
            left_out=count - len(asked),
        )

    def naive_queries(self, direction: Direction) -> QuerySet:
        """The queries of the usual protocol, where nothing but the own pair is right.

        Image to text: one query an image; any of its own captions answers it. Text to image: one query an own pair;
        only its own image answers it, even if another image owns the same text. Nothing is ignored.
        """
        rows, columns, count = self._oriented(self.own, direction)
        lists = MatchLists.from_pairs(rows, columns, count)
        asked = lists.sizes.nonzero().flatten()
        left_out = count - len(asked)
        if direction == "t2i":
            asked, _, columns = lists.entries()
            answers = MatchLists.from_pairs(torch.arange(len(asked)), columns, len(asked))
        else:
            answers = lists.select(asked)
        nothing = MatchLists(asked.new_zeros(len(asked) + 1), asked.new_zeros(0))
        return QuerySet(rows=asked, answers=answers, ignored=nothing, left_out=left_out)

    def _oriented(self, pairs: Tensor, direction: Direction) -> tuple[Tensor, Tensor, int]:
        """Pairs as (query row, candidate column, number of rows)."""
        image, caption = pairs.unbind(1)
        return (image, caption, self.images) if direction == "i2t" else (caption, image, self.captions)

    def _keys(self, name: str, pairs: Tensor) -> Tensor:
        """Pairs [N, 2] as distinct sorted numbers image * T + caption."""
        pairs = torch.as_tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        image, caption = pairs.unbind(1)
        wrong = (image < 0) | (image >= self.images) | (caption < 0) | (caption >= self.captions)
        if wrong.any():
            first = tuple(pairs[wrong][0].tolist())
            raise DataError(
                f"{name} pair {first} is out of range for {self.images} images and {self.captions} captions; "
                "pairs are (image number, caption number), counted from 0"
            )
        keys: Tensor = (image * self.captions + caption).unique()
        return keys

    def _pairs(self, keys: Tensor) -> Tensor:
        """Inverse of ``_keys``."""
        if not len(keys):
            return torch.empty(0, 2, dtype=torch.int64)
        return torch.stack([keys // self.captions, keys % self.captions], dim=1)


Labels = Sequence[str | None]


@dataclass(frozen=True)
class CaptionGallery:
    """The distinct caption texts of a set of images, and which of them are true of which image.

    Attributes:
        texts: one text for each candidate caption, as first written.
        truth: relations between the images and ``texts``.
    """

    texts: list[str]
    truth: RetrievalTruth

    @classmethod
    def from_names(
        cls,
        own: Sequence[Sequence[str]],
        names: Sequence[Sequence[str] | None] | None = None,
        groups: Labels | None = None,
        families: Labels | None = None,
        near: Sequence[Sequence[str] | None] | None = None,
    ) -> "CaptionGallery":
        """Build the gallery; texts that are equal after normalisation are one candidate, true of all their images.

        Args:
            own: for each image, the captions the data set declares as its own.
            names: for each image, all captions known to be true of it (the own ones need not be repeated);
                None for an image: no more than its own.
            groups: for each image, what it shows: a caption true of one image of a group is true of all of them. None
                for an image: it stands alone.
            families: for each image, a wider class. A caption true of another image of the same family, but not of
                this one, is ignored: a near-match. None for an image: nothing is ignored.
            near: for each image, captions judged to match it nearly; ignored, too, unless they are true.

        Raises:
            DataError: if the sequences differ in length, or a caption is blank.
        """
        for title, given in (("names", names), ("groups", groups), ("families", families), ("near", near)):
            if given is not None and len(given) != len(own):
                raise DataError(f"{title} has {len(given)} entries for {len(own)} images; give one entry an image")
        texts: dict[str, int] = {}
        written: list[str] = []
        own_numbers = [_number(captions, texts, written) for captions in own]
        true_numbers = own_numbers
        if names is not None:
            true_numbers = [
                mine | _number(also or (), texts, written) for mine, also in zip(own_numbers, names, strict=True)
            ]
        if groups is not None:
            true_numbers = _widen(true_numbers, groups)
        ignored = [_number(captions or (), texts, written) for captions in near or [()] * len(own)]
        if families is not None:
            wider = _widen(true_numbers, families)
            ignored = [judged | alike for judged, alike in zip(ignored, wider, strict=True)]
        ignored = [nearly - true for nearly, true in zip(ignored, true_numbers, strict=True)]
        truth = RetrievalTruth(len(own), len(written), _pairs(own_numbers), _pairs(true_numbers), _pairs(ignored))
        return cls(texts=written, truth=truth)


def _number(captions: Sequence[str], texts: dict[str, int], written: list[str]) -> set[int]:
    """Candidate numbers of some captions; unseen texts are added to ``texts`` and ``written``."""
    numbers = set()
    for caption in captions:
        key = normalise_caption(caption)
        if not key:
            raise DataError("a caption is blank; remove it, or leave out its image")
        if key not in texts:
            texts[key] = len(written)
            written.append(caption)
        numbers.add(texts[key])
    return numbers


def _widen(numbers: list[set[int]], labels: Labels) -> list[set[int]]:
    """For each image the union of the sets of all images with its label; its own set where the label is None."""
    shared: dict[str, set[int]] = {}
    for label, mine in zip(labels, numbers, strict=True):
        if label is not None:
            shared.setdefault(label, set()).update(mine)
    return [mine if label is None else shared[label] for label, mine in zip(labels, numbers, strict=True)]


def _pairs(numbers: list[set[int]]) -> Tensor:
    """(image, caption) pairs, int64 [N, 2]."""
    flat = [(image, caption) for image, captions in enumerate(numbers) for caption in captions]
    return torch.tensor(flat, dtype=torch.int64).reshape(-1, 2)


class PairTruth:
    """Whether a caption text is known to be true of the image of a row.

    It serves measurement, and the fitting of judges on clean data; training never sees it.

    Args:
        rows: row of each known match, int64 [M].
        keys: caption key of each known match, int64 [M].
    """

    def __init__(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        self._keys = np.unique(keys)  # [K]
        self._matches = np.unique(rows * len(self._keys) + np.searchsorted(self._keys, keys))  # [M], row-major

    @classmethod
    def from_table(cls, table: TruthTable) -> "PairTruth | None":
        """The truth of a table: its ``names``, widened to all rows of a ``group``; None if it states neither.

        Of a row that states neither, only its own captions are true.
        """
        names, groups = _column(table, "names"), _column(table, "group")
        if names is None and groups is None:
            return None
        gallery = CaptionGallery.from_names(table.values("captions"), names, groups)
        keys = np.array([caption_key(text) for text in gallery.texts], dtype=np.int64)
        rows, texts = gallery.truth.true.numpy().T
        return cls(rows, keys[texts])

    def matches(self, rows: Tensor, caption_keys: Tensor) -> Tensor:
        """Whether captions are true of the images of rows.

        Args:
            rows: rows of the table, int64 [P].
            caption_keys: keys of the captions' normalised texts, int64 [P].

        Returns:
            bool [P], on the device of ``rows``.
        """
        keys = caption_keys.cpu().numpy()
        number = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)  # [P]
        cells = rows.cpu().numpy() * len(self._keys) + number
        place = np.minimum(np.searchsorted(self._matches, cells), len(self._matches) - 1)
        return torch.from_numpy((self._matches[place] == cells) & (self._keys[number] == keys)).to(rows.device)

    def hidden_matches(self, batch: TruthBatch) -> Tensor:
        """The false negatives of a batch: true pairs that share neither image id nor caption text, bool [B, B]."""
        shape = (len(batch), len(batch))
        rows = batch.source_index[:, None].expand(shape)
        keys = batch.caption_key[None, :].expand(shape)
        true = self.matches(rows.flatten(), keys.flatten()).view(shape)
        return true & ~same_pair(batch.image_id, batch.caption_key)


def _column(table: TruthTable, name: str) -> list[Any] | None:
    """A column of the table; None if it is absent or empty."""
    values = table.values(name) if name in table.rows.column_names else []
    return values if any(value is not None for value in values) else None


class ConversionTruth:
    """Precision and recall of the conversions, counted over the batches since the last :meth:`reset`.

    A false negative is an off-diagonal (image, caption) of a batch that is true. Pairs of one image id or one caption
    text are known to everyone, and not counted.

    Args:
        truth: of the training table.

    Attributes:
        counts: pairs converted, those of them that are true, true pairs that were judged, true pairs in all.
    """

    def __init__(self, truth: PairTruth) -> None:
        self.truth = truth
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.counts: dict[str, int] = dict.fromkeys(("converted", "right", "judged_true", "batch_true"), 0)

    def add(self, batch: TruthBatch, converted: PairSet, judged: PairSet | None = None) -> None:
        """Count a batch.

        Args:
            batch: B pairs.
            converted: the (image row, text row) cells that became positives, ``Connections.converted`` [B, B].
            judged: the cells that the judge was asked about, ``CandidateScores.judged``; None if it judged all.
        """
        hidden = self.truth.hidden_matches(batch)  # [B, B]
        known = same_pair(batch.image_id, batch.caption_key)  # [B, B]
        cells = converted.distinct()
        cells = cells.where(~known[cells.rows, cells.columns])
        seen = hidden if judged is None else hidden & judged.mask()
        for name, count in (
            ("converted", torch.tensor(len(cells))),
            ("right", hidden[cells.rows, cells.columns].sum()),
            ("judged_true", seen.sum()),
            ("batch_true", hidden.sum()),
        ):
            self.counts[name] += int(count)

    def figures(self) -> dict[str, float]:
        """Figures for the log; a share without anything to count is left out.

        Returns:
            ``conversion_precision``: of the converted pairs, how many are true. ``conversion_recall_judged``: of the
            true pairs that the judge was asked about, how many were converted. ``conversion_recall``: of all true pairs
            of the batches. And the counts they are made of.
        """
        counts = self.counts
        shares = {
            "conversion_precision": ("right", "converted"),
            "conversion_recall_judged": ("right", "judged_true"),
            "conversion_recall": ("right", "batch_true"),
        }
        figures = {name: counts[part] / counts[whole] for name, (part, whole) in shares.items() if counts[whole]}
        return {**figures, **{f"conversions_{name}": float(count) for name, count in counts.items()}}


Indices = NDArray[np.int64]


class KnownTruth:
    """Verdicts on pairs of an image and a caption of another row.

    Args:
        table: with truth columns ``names`` or ``group``, and for near-matches ``family``, as far as it has them.
    """

    def __init__(self, table: TruthTable) -> None:
        self._truth = PairTruth.from_table(table)
        names, groups = _column_or_none(table, "names"), _column_or_none(table, "group")
        stated = [name is not None or group is not None for name, group in zip(names, groups, strict=True)]
        self._stated = np.array(stated, dtype=bool)  # [N]
        numbers: dict[str, int] = {}
        families = [
            -1 if family is None else numbers.setdefault(family, len(numbers))
            for family in _column_or_none(table, "family")
        ]
        self._families = np.array(families, dtype=np.int64)  # [N]

    def verdicts(self, images: Indices, captions: Indices, keys: Indices) -> NDArray[np.str_]:
        """What is known of pairs, each a :data:`truepair.evaluation.marks.Verdict`.

        Args:
            images: row of each image, int64 [P].
            captions: row that each caption is declared in, int64 [P].
            keys: key of each caption's normalised text, int64 [P].

        Returns:
            Words [P].
        """
        if self._truth is None:
            return np.full(len(images), "unknown")
        true = self._truth.matches(torch.from_numpy(images), torch.from_numpy(keys)).numpy()
        family = self._families[images]
        near = (family >= 0) & (family == self._families[captions])
        unknown = ~self._stated[images]
        return np.select([unknown, true, near], ["unknown", "true", "near"], "false")


def _column_or_none(table: TruthTable, name: str) -> list[Any]:
    """A column of the table; None everywhere if the table lacks it."""
    return list(table.rows[name]) if name in table.rows.column_names else [None] * len(table)
