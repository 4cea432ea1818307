"""What the losses of a step look at."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.models.fusion import ImageKeysValues
from truepair.training.gathering import gather, gather_batch, gather_padded
from truepair.training.moment import Moment
from truepair.training.towers import Towers


class ImagePart(NamedTuple):
    """Some images of this rank, as the fusion encoder reads them.

    Attributes:
        rows: Their rows among the pairs of all ranks.
        keys_values: Computed once per image.
    """

    rows: slice
    keys_values: ImageKeysValues


@dataclass(frozen=True)
class StepView:
    """The B pairs of a step over all ranks, and the b pairs of this rank among them.

    Attributes:
        batch: The pairs of all ranks; their pixels are there on one rank, or if a judge reads them.
        local: This rank's pairs.
        own: Rows of this rank's pairs among all.
        image_states: States of this rank's images, part by part, each [n, N, W].
        image_features: Image features of all ranks [B, E].
        text_features: Text features of all ranks [B, E].
        text_states: Text states of all ranks [B, L, D].
        temperature: ITC temperature, with gradient.
        moment: Where the run stands.
    """

    batch: PairBatch
    local: PairBatch
    own: slice
    image_states: list[Tensor]
    image_features: Tensor  # [B, E]
    text_features: Tensor  # [B, E]
    text_states: Tensor  # [B, L, D]
    temperature: Tensor
    moment: Moment

    @classmethod
    def of(cls, local: PairBatch, towers: Towers, moment: Moment, rank: int, *, pixels: bool) -> "StepView":
        """Encode this rank's pairs, and bring those of all ranks together.

        Args:
            local: This rank's pairs.
            towers: Encode them.
            moment: Where the run stands.
            rank: This process.
            pixels: Whether the images of other ranks are needed.
        """
        # Images come last: so the backward pass frees their activations, the largest, before it comes to the texts.
        text = towers.encode_text(local)
        image_states, image_features = towers.encode_images(local, moment.epoch)
        return cls(
            batch=gather_batch(local, pixels=pixels),
            local=local,
            own=slice(rank * len(local), (rank + 1) * len(local)),
            image_states=image_states,
            image_features=gather(image_features),
            text_features=gather(text.feature),
            text_states=gather_padded(text.states),
            temperature=towers.model.temperature,
            moment=moment,
        )

    @property
    def size(self) -> int:
        """Pairs of all ranks, B."""
        return len(self.image_features)

    @property
    def alone(self) -> bool:
        """Whether there is one rank."""
        return self.size == len(self.local)

    @property
    def logits(self) -> Tensor:
        """Similarity of all images (rows) and texts (columns) over the temperature, without gradient [B, B]."""
        return self.similarity / self.temperature.detach()

    @property
    def similarity(self) -> Tensor:
        """Cosines of all images (rows) and texts (columns), without gradient, in float32 or wider [B, B]."""
        images, texts = (full_precision(part.detach()) for part in (self.image_features, self.text_features))
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would make ties of the hardest candidates
            return images @ texts.T


def full_precision(features: Tensor) -> Tensor:
    """Features in float32, or in their own type if that is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
