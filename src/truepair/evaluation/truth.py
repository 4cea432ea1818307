"""What is known to be true between images and captions: one truth, and several views of it.

It serves measurement, and the fitting of judges on clean data; training never sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.errors import DataError
from truepair.relations.pairs import PairSet, Side, same_pair
from truepair.relations.text import caption_key, identities_of_captions

Mark = Literal["own", "true", "near", "wrong", "unknown"]
"""How an answer relates to its query: own pair, true match that is not own, near-match (same family), or neither.

Of a picture of which no more than its own captions is stated, nobody knows whether another is true."""

Verdict = Literal["true", "near", "false", "unknown"]
"""What the known truth says of an undeclared pair: match, near-match (same family), neither, or nothing."""

Labels = Sequence[str | None]


class TruthTable(Protocol):
    """What is read of a table of pairs, such as ``PairTable``."""

    @property
    def rows(self) -> Any:
        """Its rows, with ``column_names``."""
        ...

    @property
    def cased(self) -> bool:
        """Whether captions that differ in case alone are different captions."""
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


class Truth:
    """Which of T distinct caption texts are known to be true of which of I images.

    Views: ``queries`` and ``naive_queries`` for retrieval; ``matches`` of (row, caption key); ``hidden_matches`` of a
    batch and ``hidden_pairs`` of a table, the false negatives; ``marks`` and ``verdicts``, words for single pairs.

    All relations are sparse: int64 [N, 2] tensors of (image, caption) numbers, sorted, without repeats.

    Attributes:
        images: number of images I.
        captions: number of distinct captions T.
        own: pairs as the data set declares them.
        own_captions: (image, caption) of every caption that the data set states, in its order, int64 [C, 2]. A text
            that it states again, of the same image or another, is a caption of its own: the usual protocol counts each.
        true: all pairs known to match, own pairs included.
        texts: the captions by number, as first written; empty where only numbers or keys are known.
        cased: whether texts that differ in case alone are different captions.
    """

    def __init__(
        self,
        images: int,
        captions: int,
        own: Tensor,
        true: Tensor | None = None,
        ignored: Tensor | None = None,
        *,
        texts: Sequence[str] = (),
        keys: Tensor | None = None,
        families: Tensor | None = None,
        stated: Tensor | None = None,
        cased: bool = False,
    ) -> None:
        """Check and store what is known.

        Args:
            images: number of images I.
            captions: number of captions T.
            own: (image, caption) pairs, int64 [C, 2]; one that occurs again is a further caption of the same text.
            true: further true pairs [M, 2]; the own pairs are added. None: only the own pairs are true.
            ignored: pairs that are neither right nor wrong [K, 2]; none by default.
            texts: the captions by number.
            keys: key of each caption, int64 [T]; None takes those of the texts.
            families: number of each image's family, -1 for none, int64 [I]. A caption true of another image of the
                family, but not of this one, is ignored too.
            stated: images of which more is known than their own captions, bool [I]; None for all.
            cased: whether case tells captions apart.

        Raises:
            DataError: a pair is out of range, or is both true and ignored.
        """
        self.images = images
        self.captions = captions
        self.texts = list(texts)
        self.cased = cased
        own_cells = self._cells_of("own", own)
        self.own_captions = torch.as_tensor(own, dtype=torch.int64).reshape(-1, 2)
        self._true_cells = torch.cat([own_cells, self._cells_of("true", true)]).unique()
        self._ignored_cells = self._cells_of("ignored", ignored)
        both = torch.isin(self._true_cells, self._ignored_cells)
        if both.any():
            image, caption = self._pairs_of(self._true_cells[both])[0].tolist()
            raise DataError(
                f"pair (image {image}, caption {caption}) is both true and ignored; drop it from one of the two lists"
            )
        self.own = self._pairs_of(own_cells)  # [N, 2]
        self.true = self._pairs_of(self._true_cells)  # [M, 2]
        self._own_cells = own_cells
        self._keys = keys
        self._families = families
        self._stated = torch.ones(images, dtype=torch.bool) if stated is None else stated

    @classmethod
    def from_names(
        cls,
        own: Sequence[Sequence[str]],
        names: Sequence[Sequence[str] | None] | None = None,
        groups: Labels | None = None,
        families: Labels | None = None,
        near: Sequence[Sequence[str] | None] | None = None,
        *,
        cased: bool = False,
    ) -> "Truth":
        """The truth of texts; those that are equal after normalisation are one caption, true of all their images.

        Args:
            own: for each image, the captions the data set declares as its own.
            names: for each image, all captions known to be true of it (the own ones need not be repeated);
                None for an image: no more than its own.
            groups: for each image, what it shows: a caption true of one image of a group is true of all of them. None
                for an image: it stands alone.
            families: for each image, a wider class. A caption true of another image of the same family, but not of
                this one, is ignored: a near-match. None for an image: nothing is ignored.
            near: for each image, captions judged to match it nearly; ignored, too, unless they are true.
            cased: whether texts that differ in case alone are different captions.

        Raises:
            DataError: the sequences differ in length, or a caption is blank.
        """
        nothing: list[None] = [None] * len(own)
        for title, given in (("names", names), ("groups", groups), ("families", families), ("near", near)):
            if given is not None and len(given) != len(own):
                raise DataError(f"{title} has {len(given)} entries for {len(own)} images; give one entry an image")
        numbered = _NumberedTexts(cased)
        own_pairs = numbered.pairs(own)
        true = torch.cat([own_pairs, numbered.pairs(names or nothing)])
        judged_near = numbered.pairs(near or nothing)
        captions = len(numbered.texts)
        if groups is not None:
            true = torch.cat([true, _shared(true, _numbers(groups), captions)])
        is_true = torch.isin(_cells(judged_near, captions), _cells(true, captions))
        labels = zip(names or nothing, groups or nothing, strict=True)
        stated = [name is not None or group is not None for name, group in labels]
        return cls(
            len(own),
            captions,
            own_pairs,
            true,
            judged_near[~is_true],
            texts=numbered.texts,
            families=None if families is None else _numbers(families),
            stated=torch.tensor(stated, dtype=torch.bool),
            cased=cased,
        )

    @classmethod
    def of_table(
        cls,
        table: TruthTable,
        names: Sequence[Sequence[str] | None] | None = None,
        near: Sequence[Sequence[str] | None] | None = None,
    ) -> "Truth":
        """The truth of a table, with or without columns ``names``, ``group`` and ``family``; image r is that of row r.

        Args:
            table: of its rows that state neither names nor a group, only the own captions are true.
            names: taken instead of the table's.
            near: captions judged to match each row's image nearly.
        """
        stated, groups, families = (_column(table, name) for name in ("names", "group", "family"))
        return cls.from_names(table.values("captions"), names or stated, groups, families, near, cased=table.cased)

    @classmethod
    def from_table(cls, table: TruthTable) -> "Truth | None":
        """The truth of a table that states any, in columns ``names`` or ``group``; None if it states neither."""
        if _column(table, "names") is None and _column(table, "group") is None:
            return None
        return cls.of_table(table)

    @classmethod
    def of_matches(cls, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> "Truth":
        """The truth of known matches.

        Args:
            rows: row of the image of each match, int64 [M].
            keys: caption key of each match, int64 [M].
        """
        distinct, numbers = np.unique(keys, return_inverse=True)
        pairs = torch.from_numpy(np.stack([rows, numbers], axis=1).astype(np.int64))
        return cls(int(rows.max(initial=-1)) + 1, len(distinct), pairs, keys=torch.from_numpy(distinct))

    @cached_property
    def ignored(self) -> Tensor:
        """Pairs that are neither right nor wrong (near-matches), int64 [K, 2]; a ranking leaves them out."""
        cells = self._ignored_cells
        if self._families is not None:
            alike = _shared(self.true, self._families, self.captions)
            cells = torch.cat([cells, _cells(alike, self.captions)]).unique()
            cells = cells[~torch.isin(cells, self._true_cells)]
        return self._pairs_of(cells)

    def without_ignored(self) -> "Truth":
        """The same truth, in which near-matches are wrong."""
        return Truth(
            self.images,
            self.captions,
            self.own_captions,
            self.true,
            texts=self.texts,
            keys=self._keys,
            stated=self._stated,
            cased=self.cased,
        )

    def queries(self, direction: Side) -> "QuerySet":
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

    def naive_queries(self, direction: Side, texts: Tensor | None = None) -> "QuerySet":
        """The queries of the usual protocol, among all C own captions; nothing but the own pair is right.

        Image to text: one query an image; any of its own captions answers it. Text to image: every own caption asks,
        and only its own image answers it. A text that is stated several times is as many candidates, and asks as many
        times. Nothing is ignored.

        Args:
            direction: who asks.
            texts: own captions that a model reads as the same text share a number, int64 [C]; by default those of one
                caption number do.
        """
        places = torch.arange(len(self.own_captions))  # [C]
        images, numbers = self.own_captions.unbind(1)
        rows, columns, count = (images, places, self.images) if direction == "i2t" else (places, images, len(places))
        lists = MatchLists.from_pairs(rows, columns, count)
        asked = lists.sizes.nonzero().flatten()
        answers = lists.select(asked)
        return QuerySet(
            rows=asked,
            answers=answers,
            ignored=MatchLists.empty(len(asked)),
            left_out=count - len(asked),
            twins=twins_of(answers, numbers if texts is None else texts) if direction == "i2t" else None,
        )

    def matches(self, rows: Tensor, caption_keys: Tensor) -> Tensor:
        """Whether captions are true of the images of rows.

        Args:
            rows: rows of the table, int64 [P].
            caption_keys: keys of the captions' normalised texts, int64 [P].

        Returns:
            bool [P], on the device of ``rows``.
        """
        numbers = self._numbers_of(caption_keys.cpu())  # [P]
        cells = rows.cpu() * self.captions + numbers
        return ((numbers >= 0) & _among(cells, self._true_cells)).to(rows.device)

    def hidden_matches(self, batch: TruthBatch, images: slice = slice(None), texts: slice = slice(None)) -> Tensor:
        """The false negatives of a batch: true pairs that share neither image id nor caption text.

        Args:
            batch: B pairs.
            images: which of its images are looked at; R of them.
            texts: which of its captions; C of them.

        Returns:
            bool [R, C].
        """
        rows, numbers = batch.source_index[images].cpu(), self._numbers_of(batch.caption_key[texts].cpu())
        distinct, of_text = torch.unique(numbers, return_inverse=True)  # [D], [C]
        place = torch.full((self.captions + 1,), -1)
        place[distinct] = torch.arange(len(distinct))  # that of unknown captions, -1, is the last
        # A look-up of each cell takes fifty times as long as going over what is true of the images.
        row, _, caption = self._true_captions.select(rows.clamp(max=self.images)).entries()
        column = place[caption]
        true = torch.zeros(len(rows), len(distinct), dtype=torch.bool)
        true[row[column >= 0], column[column >= 0]] = True
        declared = same_pair(batch.image_id, batch.caption_key, images, texts)
        return true[:, of_text].to(declared.device) & ~declared

    @cached_property
    def _true_captions(self) -> "MatchLists":
        """The captions true of each image, and an empty list for rows that are no image of this truth."""
        return MatchLists.from_pairs(self.true[:, 0], self.true[:, 1], self.images + 1)

    def hidden_pairs(self, image_ids: Tensor, caption_keys: Tensor) -> PairSet:
        """The false negatives of a whole table, each row with one caption; no N x N matrix is made.

        Args:
            image_ids: image id of each row, int64 [N].
            caption_keys: key of each row's caption, int64 [N].

        Returns:
            Cells (image row, caption row) that are true and share neither image id nor caption text; values are 1.
        """
        numbers = self._numbers_of(caption_keys)  # [N]
        known = (numbers >= 0).nonzero()[:, 0]
        rows_of_caption = MatchLists.from_pairs(numbers[known], known, self.captions)
        match, _, columns = rows_of_caption.select(self.true[:, 1]).entries()
        rows = self.true[match, 0]
        hidden = (image_ids[rows] != image_ids[columns]) & (caption_keys[rows] != caption_keys[columns])
        rows, columns = rows[hidden], columns[hidden]
        return PairSet(rows, columns, torch.ones(len(rows)), (len(image_ids), len(image_ids)))

    def marks(self, images: Tensor, captions: Tensor) -> NDArray[np.str_]:
        """How pairs relate.

        Args:
            images: image numbers, int64 [P].
            captions: caption numbers, int64 [P].

        Returns:
            Words [P], each a ``Mark``.
        """
        cells = images * self.captions + captions
        own, true = _among(cells, self._own_cells), _among(cells, self._true_cells)
        known = [own, true, self._near(images, captions), ~self._stated[images]]
        return np.select(known, ["own", "true", "near", "unknown"], "wrong")

    def verdicts(self, rows: Tensor, caption_keys: Tensor) -> NDArray[np.str_]:
        """What is known of undeclared pairs.

        Args:
            rows: row of each image, int64 [P].
            caption_keys: key of each caption's normalised text, int64 [P].

        Returns:
            Words [P], each a ``Verdict``.
        """
        numbers = self._numbers_of(caption_keys)
        unknown, true = ~self._stated[rows], self.matches(rows, caption_keys)
        near = (numbers >= 0) & self._near(rows, numbers)
        return np.select([unknown, true, near], ["unknown", "true", "near"], "false")

    def _near(self, images: Tensor, captions: Tensor) -> Tensor:
        """Whether pairs that are not true are near-matches, bool [P]; like ``ignored``, but never expands families."""
        near = _among(images * self.captions + captions, self._ignored_cells)
        if self._families is None:
            return near
        of_image = self._families[images]
        return near | ((of_image >= 0) & _among(of_image * self.captions + captions, self._captions_of_families))

    @cached_property
    def _captions_of_families(self) -> Tensor:
        """Sorted numbers family * T + caption of the captions that are true of some image of a family."""
        assert self._families is not None
        image, caption = self.true.unbind(1)
        family = self._families[image]
        cells: Tensor = (family * self.captions + caption)[family >= 0].unique()
        return cells

    def _numbers_of(self, keys: Tensor) -> Tensor:
        """Caption number of each key, -1 for an unknown one, int64 [P]."""
        known, order = self._sorted_keys
        if not len(known):
            return torch.full_like(keys, -1)
        place = torch.searchsorted(known, keys.contiguous()).clamp(max=len(known) - 1)
        return torch.where(known[place] == keys, order[place], -1)

    @cached_property
    def _sorted_keys(self) -> tuple[Tensor, Tensor]:
        """The captions' keys in order, and the caption number of each [T]."""
        of_texts = [caption_key(text, self.cased) for text in self.texts]
        keys = torch.tensor(of_texts) if self._keys is None else self._keys
        if len(keys) != self.captions:
            raise ValueError("this truth knows captions by number only: give it their texts or keys")
        known, order = keys.long().sort()
        return known, order

    def _oriented(self, pairs: Tensor, direction: Side) -> tuple[Tensor, Tensor, int]:
        """Pairs as (query row, candidate column, number of rows)."""
        image, caption = pairs.unbind(1)
        return (image, caption, self.images) if direction == "i2t" else (caption, image, self.captions)

    def _cells_of(self, name: str, pairs: Tensor | None) -> Tensor:
        """Pairs [N, 2] as distinct sorted numbers image * T + caption."""
        pairs = torch.as_tensor([] if pairs is None else pairs, dtype=torch.int64).reshape(-1, 2)
        image, caption = pairs.unbind(1)
        wrong = (image < 0) | (image >= self.images) | (caption < 0) | (caption >= self.captions)
        if wrong.any():
            first = tuple(pairs[wrong][0].tolist())
            raise DataError(
                f"{name} pair {first} is out of range for {self.images} images and {self.captions} captions; "
                "pairs are (image number, caption number), counted from 0"
            )
        cells: Tensor = _cells(pairs, self.captions).unique()
        return cells

    def _pairs_of(self, cells: Tensor) -> Tensor:
        """Inverse of ``_cells_of``."""
        if not len(cells):
            return torch.empty(0, 2, dtype=torch.int64)
        return torch.stack([cells // self.captions, cells % self.captions], dim=1)


@dataclass(frozen=True)
class QuerySet:
    """The queries of one direction, each with the candidates that answer it.

    Attributes:
        rows: int64 [Q], ascending; the image (i2t) or caption (t2i) each query asks with. One row may serve several
            queries.
        answers: the right candidates of each query; never empty.
        ignored: candidates taken out of each query's ranking.
        left_out: rows that have no right candidate, and therefore ask nothing.
        twins: how many wrong candidates have the very text of each answer, int64 [M]; see ``twins_of``. None: none.
    """

    rows: Tensor  # [Q]
    answers: "MatchLists"
    ignored: "MatchLists"
    left_out: int
    twins: Tensor | None = None  # [M]


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

    @classmethod
    def empty(cls, count: int) -> "MatchLists":
        """Lists of Q queries, all empty."""
        return cls(torch.zeros(count + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))

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


def twins_of(answers: MatchLists, texts: Tensor) -> Tensor:
    """How many wrong candidates have the text of each answer: nobody can rank them before or behind it.

    Args:
        answers: M answers of the queries.
        texts: number of each candidate's text, int64 [N].

    Returns:
        int64 [M]; where a query has several answers of one text, its twins are counted at the first of them.
    """
    query, _, member = answers.entries()
    text = texts[member]
    copies = torch.bincount(texts)
    _, cell, right = (query * len(copies) + text).unique(return_inverse=True, return_counts=True)
    first = torch.full((len(right),), len(cell)).scatter_reduce(0, cell, torch.arange(len(cell)), "amin")
    counted = torch.zeros(len(cell), dtype=torch.bool)
    counted[first] = True
    return torch.where(counted, copies[text] - right[cell], 0)


class ConversionCounter:
    """Precision and recall of the conversions, counted over the batches since the last :meth:`reset`.

    A false negative is an off-diagonal (image, caption) of a batch that is true. Pairs of one image id or one caption
    text are known to everyone, and not counted.

    Args:
        truth: of the training table.

    Attributes:
        counts: pairs converted, those of them that are true, true pairs that were judged, true pairs in all.
    """

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.counts: dict[str, int] = dict.fromkeys(("converted", "right", "judged_true", "batch_true"), 0)

    def add(self, batch: TruthBatch, converted: PairSet, judged: PairSet | None = None) -> None:
        """Count a batch.

        Args:
            batch: B pairs.
            converted: the (image row, text row) cells that became positives [B, B].
            judged: the cells that the judge was asked about [B, B]; None if it judged all.
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


class _NumberedTexts:
    """Texts by number, in the order in which they are first met; equal ones after normalisation have one number.

    Args:
        cased: whether case tells texts apart.
    """

    def __init__(self, cased: bool) -> None:
        self._cased = cased
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def pairs(self, captions: Sequence[Sequence[str] | None]) -> Tensor:
        """(image, caption number) pairs of the captions of each image, int64 [N, 2].

        Raises:
            DataError: a caption is blank.
        """
        texts = [text for some in captions for text in some or ()]
        images = [image for image, some in enumerate(captions) for _ in some or ()]
        keys = identities_of_captions(texts, self._cased)
        if not all(keys):
            raise DataError("a caption is blank; remove it, or leave out its image")
        numbers = list[int]()
        for text, key in zip(texts, keys, strict=True):
            number = self._numbers.setdefault(key, len(self.texts))
            if number == len(self.texts):
                self.texts.append(text)
            numbers.append(number)
        return torch.tensor([images, numbers], dtype=torch.int64).t().contiguous()


def _numbers(labels: Labels) -> Tensor:
    """Labels as numbers from 0, None as -1, int64 [I]."""
    numbers: dict[str, int] = {}
    found = [-1 if label is None else numbers.setdefault(label, len(numbers)) for label in labels]
    return torch.tensor(found, dtype=torch.int64)


def _shared(pairs: Tensor, labels: Tensor, captions: int) -> Tensor:
    """Each labelled image with every caption that ``pairs`` [M, 2] give to an image of its label [I], int64 [N, 2]."""
    image, caption = pairs.unbind(1)
    labelled = labels[image] >= 0
    cells = (labels[image] * captions + caption)[labelled].unique()
    count = int(labels.max()) + 1 if len(labels) else 0
    lists = MatchLists.from_pairs(cells // max(captions, 1), cells % max(captions, 1), count)
    images = (labels >= 0).nonzero()[:, 0]
    query, _, member = lists.select(labels[images]).entries()
    return torch.stack([images[query], member], dim=1)


def _cells(pairs: Tensor, captions: int) -> Tensor:
    """(image, caption) pairs [N, 2] as numbers image * T + caption, int64 [N]."""
    return pairs[:, 0] * captions + pairs[:, 1]


def _among(asked: Tensor, known: Tensor) -> Tensor:
    """Which numbers are among the sorted known ones, bool [P]."""
    if not len(known):
        return torch.zeros(len(asked), dtype=torch.bool)
    return known[torch.searchsorted(known, asked).clamp(max=len(known) - 1)] == asked


def _column(table: TruthTable, name: str) -> list[Any] | None:
    """A column of the table; None if it is absent or empty."""
    values = table.values(name) if name in table.rows.column_names else []
    return values if any(value is not None for value in values) else None
