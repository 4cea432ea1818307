"""Verdicts in memory, sorted so that those of a batch are found without a loop."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from truepair.relations.pairs import PairSet


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
