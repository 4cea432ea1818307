"""Which pairs of a table are worth a closer look: the most likely partners of each row."""

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

from truepair.data.table import PairTable
from truepair.mining.evidence_model import EvidenceModel
from truepair.mining.pair_graph import PairGraph
from truepair.relations.text import caption_key

_ROWS = 256  # rows scored at once
_PROBED = 16  # cells of the index searched for each row
_PAIRS = 65_536  # proposed pairs scored at once


@dataclass(frozen=True)
class Declared:
    """What everyone knows about the rows of a table: pairs of one image id or one caption text match.

    Attributes:
        image_ids: int64 [N].
        caption_keys: key of each row's first caption [N].
    """

    image_ids: Tensor
    caption_keys: Tensor

    @classmethod
    def of_table(cls, table: PairTable) -> "Declared":
        """Read them off a table."""
        keys = torch.tensor([caption_key(captions[0]) for captions in table.values("captions")])
        return cls(torch.from_numpy(table.image_ids.copy()), keys)

    def __len__(self) -> int:
        return len(self.image_ids)

    def known(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether cells are declared; shapes are broadcast."""
        same_image = self.image_ids[rows] == self.image_ids[columns]
        return same_image | (self.caption_keys[rows] == self.caption_keys[columns])


def graph_of(log_odds: Callable[[Tensor], Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """The best candidates of each row, out of all pairs.

    Args:
        log_odds: of rows [R] with all rows, [R, N]; the same for (i, j) and (j, i).
        declared: what is known of the N rows; known pairs come first.
        neighbours: how many of each row.
    """
    size = len(declared)
    parts = []
    for rows in torch.arange(size).split(_ROWS):
        scores = log_odds(rows).clone()  # [R, N]
        known = declared.known(rows[:, None], torch.arange(size))
        ranking = scores.masked_fill(known, torch.inf)
        ranking[torch.arange(len(rows)), rows] = -torch.inf
        best = ranking.topk(min(neighbours, size - 1), dim=1).indices  # [R, neighbours]
        of_row = rows[:, None].expand_as(best).flatten()
        parts.append((of_row, best.flatten(), scores.gather(1, best).flatten(), known.gather(1, best).flatten()))
    rows, columns, scores, known = (torch.cat(column) for column in zip(*parts, strict=True))
    return PairGraph.of_proposals(size, rows, columns, scores, known)


def exact_graph(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """Candidates out of all pairs of a table, each scored; time O(N^2), memory O(N * neighbours)."""
    every = torch.arange(len(declared))
    return graph_of(lambda rows: model.log_odds(spaces, rows, every), declared, neighbours)


def searched_graph(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared, neighbours: int) -> PairGraph:
    """Candidates by neighbour search among images and captions; the proposed pairs alone are scored.

    An inverted file over the learned metrics of images and captions proposes: memory O(N (width + neighbours)), time
    about O(N^1.5).
    """
    size = len(declared)
    vectors = torch.cat([spaces["image"], spaces["text"]], dim=1).numpy().astype(np.float32)  # [N, A + B]
    cells = max(round(size**0.5), 1)
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning on small tables
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(_PROBED, cells)
    found = torch.from_numpy(index.search(vectors, min(neighbours + 1, size))[1])  # [N, neighbours + 1], -1 for none
    rows = torch.arange(size)[:, None].expand_as(found)
    proposed = (found >= 0) & (found != rows)
    rows, columns = rows[proposed], found[proposed]
    scores = [
        (model.edge_log_odds(spaces, left, right) + model.edge_log_odds(spaces, right, left)) / 2
        for left, right in zip(rows.split(_PAIRS), columns.split(_PAIRS), strict=True)
    ]
    return PairGraph.of_proposals(size, rows, columns, torch.cat(scores), declared.known(rows, columns))
