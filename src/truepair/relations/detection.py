"""What a detector says about a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class Detection:
    """Cells of the batch matrix that a detector suspects to match.

    Attributes:
        detector: Name of the detector, as it stands in the ledger.
        pairs: The (image row, text row) cells; values are scores, by convention 1 = a match for certain [B, B].
        by_image: Whether the image's side found the cell, bool [P].
        by_text: Whether the text's side found it, bool [P].
    """

    detector: str
    pairs: PairSet
    by_image: Tensor  # [P]
    by_text: Tensor  # [P]

    @classmethod
    def mutual(cls, detector: str, pairs: PairSet) -> "Detection":
        """A finding that has no side."""
        both = torch.ones(len(pairs), dtype=torch.bool, device=pairs.rows.device)
        return cls(detector, pairs, both, both)

    def where(self, keep: Tensor) -> "Detection":
        """The cells chosen by a bool mask or an index [P]."""
        return Detection(self.detector, self.pairs.where(keep), self.by_image[keep], self.by_text[keep])
