"""Where a step's image and text states come from: the encoders, or a cache of frozen ones."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from truepair.data.collate import PairBatch
from truepair.errors import ConfigError
from truepair.models.albef import AlbefModel, Encoded
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates
from truepair.training.micro_batches import MicroBatches, joined


class Towers:
    """Image and text states of a batch.

    Args:
        model: holds the encoders and their projections.
        freeze_image: the image encoder is not trained; without a cache it still runs, without gradient.
        freeze_text: the text layers are not trained.
        image_cache: states of the images of the data set, row by row; the image encoder does not run at all.
        caption_cache: states of the captions of the data set; the text encoder runs on masked captions only.
        seed: seed of the run; chooses among the cached views.
        parts: how much of a batch is encoded at once.

    Raises:
        ConfigError: the image encoder that is to see parts of a batch has batch normalisation.
    """

    def __init__(
        self,
        model: AlbefModel,
        *,
        freeze_image: bool = False,
        freeze_text: bool = False,
        image_cache: ImageStates | None = None,
        caption_cache: CaptionStates | None = None,
        seed: int = 0,
        parts: MicroBatches | None = None,
    ) -> None:
        self.model = model
        self.freeze_image = freeze_image
        self.freeze_text = freeze_text
        self.image_cache = image_cache
        self.caption_cache = caption_cache
        self.seed = seed
        self.parts = parts or MicroBatches()
        if self.parts.size and not freeze_image and any(isinstance(m, _BatchNorm) for m in model.modules()):
            raise ConfigError(
                "loop.micro_batch: this image encoder normalises over the batch, which parts of it would change; "
                "set model.freeze_image, or take another encoder"
            )
        model.image_encoder.requires_grad_(not freeze_image)
        model.text_encoder.requires_grad_(not freeze_text)

    def of_copy(self, model: AlbefModel) -> "Towers":
        """The same sources of states for a copy of the model that is not trained itself."""
        return Towers(
            model,
            freeze_image=True,
            freeze_text=True,
            image_cache=self.image_cache,
            caption_cache=self.caption_cache,
            seed=self.seed,
            parts=self.parts,
        )

    def encode_images(self, batch: PairBatch, epoch: int) -> tuple[list[Tensor], Tensor]:
        """States of the batch's images part by part, each [n, N, W], and the features of all [B, E]."""
        states = [self._image_states(batch, rows, epoch) for rows in self.parts.slices(len(batch))]
        return states, joined([self.model.project_image(part) for part in states])

    def encode_text(self, batch: PairBatch) -> Encoded:
        """States [B, L, D] and features [B, E] of the batch's captions."""
        ids, mask = batch.input_ids, batch.attention_mask
        if self.caption_cache is not None:
            states = self.caption_cache.gather(batch.captions)[0].to(ids.device)
        else:
            parts = self.parts.slices(len(batch))
            states = joined([self.parts.call(self.text_states, ids[rows], mask[rows]) for rows in parts])
        return Encoded(states, self.model.project_text(states, mask))

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [B, L] to text states [B, L, D]."""
        if not self.freeze_text:
            return self.model.text_states(input_ids, attention_mask)
        self.model.text_encoder.eval()  # the loop's train() would switch the dropout of the frozen layers on again
        with torch.no_grad():
            return self.model.text_states(input_ids, attention_mask)

    def _image_states(self, batch: PairBatch, rows: slice, epoch: int) -> Tensor:
        """States of the images of some rows [n, N, W]."""
        if self.image_cache is not None:
            return self.image_cache.visit(batch.source_index[rows], epoch, self.seed).to(batch.input_ids.device)
        assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
        pixels = batch.pixel_values[rows]
        if not self.freeze_image:
            return self.parts.call(self.model.image_states, pixels)
        self.model.image_encoder.eval()
        with torch.no_grad():
            return self.model.image_states(pixels)
