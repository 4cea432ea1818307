"""What judges that read pairs have in common: each image and caption of a query is encoded once, whatever its pairs."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from truepair.data.collate import PairBatch

Read = Callable[[Tensor, Tensor], Tensor]
"""Match probabilities [p] of pairs of encoded images and captions, by their places among the encoded [p], [p]."""


class PairReader(ABC):
    """A ``Discriminator`` that encodes the distinct images and captions of a query, then reads the pairs in parts.

    Attributes:
        pairs_at_once: pairs that are read together.
    """

    pairs_at_once: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where pairs are read."""

    @abstractmethod
    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode the images [U] and captions [V] of some rows of a batch, for their pairs to be read."""

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Discriminator.score``."""
        if not len(images):
            return torch.zeros(0, device=images.device)
        with torch.inference_mode():
            image_rows, image_of = images.unique(return_inverse=True)  # [U], [P]
            text_rows, text_of = texts.unique(return_inverse=True)  # [V], [P]
            read = self.encode(batch, image_rows, text_rows)
            places = (rows.to(self.device).split(self.pairs_at_once) for rows in (image_of, text_of))
            scores = torch.cat([read(image, text) for image, text in zip(*places, strict=True)]).to(images.device)
        return scores.clone()  # outside inference mode, so that autograd may keep it
