"""Where a step's image and text states come from: the encoders, or a cache of frozen ones."""

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.models.albef import AlbefModel, Encoded
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates


class Towers:
    """Image and text states of a batch.

    Args:
        model: holds the encoders and their projections.
        freeze_image: the image encoder is not trained; without a cache it still runs, without gradient.
        freeze_text: the text layers are not trained.
        image_cache: states of the images of the data set, row by row; the image encoder does not run at all.
        caption_cache: states of the captions of the data set; the text encoder runs on masked captions only.
        seed: seed of the run; chooses among the cached views.
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
    ) -> None:
        self.model = model
        self.freeze_image = freeze_image
        self.freeze_text = freeze_text
        self.image_cache = image_cache
        self.caption_cache = caption_cache
        self.seed = seed
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
        )

    def encode_image(self, batch: PairBatch, epoch: int) -> Encoded:
        """States [B, N, W] and features [B, E] of the batch's images."""
        if self.image_cache is not None:
            states = self.image_cache.visit(batch.source_index, epoch, self.seed).to(batch.input_ids.device)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_image):
                if self.freeze_image:
                    self.model.image_encoder.eval()
                assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
                states = self.model.image_states(batch.pixel_values)
        return Encoded(states, self.model.project_image(states))

    def encode_text(self, batch: PairBatch) -> Encoded:
        """States [B, L, D] and features [B, E] of the batch's captions."""
        if self.caption_cache is not None:
            states = self.caption_cache.gather(batch.captions)[0].to(batch.input_ids.device)
        else:
            states = self.text_states(batch.input_ids, batch.attention_mask)
        return Encoded(states, self.model.project_text(states, batch.attention_mask))

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [B, L] to text states [B, L, D]."""
        if not self.freeze_text:
            return self.model.text_states(input_ids, attention_mask)
        self.model.text_encoder.eval()  # the loop's train() would switch the dropout of the frozen layers on again
        with torch.no_grad():
            return self.model.text_states(input_ids, attention_mask)
