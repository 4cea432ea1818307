"""What is known to be true between a set of images and a set of captions."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.evaluation.match_lists import MatchLists

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
