"""Features of the pairs of a table, from frozen encoders."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.errors import ConfigError
from truepair.mining.input_keys import caption_input_key, image_input_key
from truepair.mining.run_inputs import RunInputs
from truepair.models.fingerprint import combined_key, encoder_fingerprint
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates
from truepair.models.minilm import sentence_vectors

_BATCH = 256


@dataclass(frozen=True)
class EvidenceTables:
    """Features of the N pairs of a table, row by row.

    Attributes:
        images: pooled image features, L2-normalised float32 [N, F].
        texts: pooled caption features, L2-normalised float32 [N, G].
        encoders: key of the encoders and of their preprocessing; features of other encoders cannot be compared.
        dual_images: image features of a trained dual encoder, L2-normalised [N, E]; None for none.
        dual_texts: its text features [N, E].
    """

    images: Tensor
    texts: Tensor
    encoders: str
    dual_images: Tensor | None = None
    dual_texts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of_run(cls, run: RunInputs) -> Self:
        """The means of a run's cached states; each row counts with its first caption.

        Raises:
            ConfigError: the run has no caches.
        """
        if run.model is None or run.image_cache is None or run.caption_cache is None:
            raise ConfigError(
                "a judge of kind 'evidence' needs frozen features; set model.cache_images and model.cache_captions"
            )
        encoders = combined_key(
            image=encoder_fingerprint(run.model.image_encoder),
            text=encoder_fingerprint(run.model.text_encoder),
            pixels=image_input_key(run.preprocessing),
            tokens=caption_input_key(run.preprocessing),
        )
        captions = [row[0] for row in run.table.values("captions")]
        return cls(pooled_images(run.image_cache), pooled_captions(run.caption_cache, captions), encoders)

    def rows(self, rows: Tensor) -> "EvidenceTables":
        """Some rows of the tables [R]."""
        dual = [None if table is None else table[rows] for table in (self.dual_images, self.dual_texts)]
        return EvidenceTables(self.images[rows], self.texts[rows], self.encoders, *dual)


def pooled_images(cache: ImageStates) -> Tensor:
    """The L2-normalised mean of the states of each plain image of a table [N, F]."""
    parts = [cache[start : start + _BATCH].mean(dim=1) for start in range(0, len(cache), _BATCH)]
    return F.normalize(torch.cat(parts), dim=1)


def pooled_captions(cache: CaptionStates, captions: list[str]) -> Tensor:
    """The L2-normalised mean of the token states of each caption [N, G]."""
    parts = [cache.gather(captions[start : start + _BATCH]) for start in range(0, len(captions), _BATCH)]
    return torch.cat([sentence_vectors(states, mask) for states, mask in parts])
