"""Image and text states of a downstream batch: from encoders in training, from frozen ones, or from their caches."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from truepair.models.downstream import DownstreamModel
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates


class TaskBatch(Protocol):
    """What is read of a batch of a downstream task."""

    @property
    def pixel_values(self) -> Tensor | None:
        """Images [I, 3, H, W]."""
        ...

    @property
    def image_index(self) -> Tensor:
        """Rows of the images in the task's table [I]."""
        ...

    @property
    def input_ids(self) -> Tensor:
        """Tokens [B, L]."""
        ...

    @property
    def attention_mask(self) -> Tensor:
        """1 for tokens and 0 for padding [B, L]."""
        ...

    @property
    def texts(self) -> list[str]:
        """Questions or statements [B]."""
        ...


class States(nn.Module):
    """States of a batch, so that what is frozen runs without gradient and dropout, or not at all.

    Args:
        freeze_image: the image encoder is not trained.
        freeze_text: the text encoder is not trained.
        images: states of the images of the task's table.
        texts: states of its texts.
    """

    def __init__(
        self,
        *,
        freeze_image: bool = False,
        freeze_text: bool = False,
        images: ImageStates | None = None,
        texts: CaptionStates | None = None,
    ) -> None:
        super().__init__()
        self.freeze_image = freeze_image
        self.freeze_text = freeze_text
        self.images = images
        self.texts = texts

    def freeze(self, model: DownstreamModel) -> None:
        """Leave what is frozen out of training."""
        model.image_encoder.requires_grad_(not self.freeze_image)
        model.text_encoder.requires_grad_(not self.freeze_text)

    def forward(self, model: DownstreamModel, batch: Any) -> tuple[Tensor, Tensor]:
        """Image states [I, N, W] and text states [B, L, D] of a `TaskBatch`."""
        return self._images(model, batch), self._texts(model, batch)

    def _images(self, model: DownstreamModel, batch: TaskBatch) -> Tensor:
        if self.images is not None:
            return self.images[batch.image_index].to(batch.input_ids.device)
        assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
        if not self.freeze_image:
            return model.image_states(batch.pixel_values)
        model.image_encoder.eval()  # the loop's train() would switch the dropout of the frozen layers on again
        with torch.no_grad():
            return model.image_states(batch.pixel_values)

    def _texts(self, model: DownstreamModel, batch: TaskBatch) -> Tensor:
        if self.texts is not None:
            return self.texts.gather(batch.texts)[0].to(batch.input_ids.device)
        if not self.freeze_text:
            return model.text_states(batch.input_ids, batch.attention_mask)
        model.text_encoder.eval()
        with torch.no_grad():
            return model.text_states(batch.input_ids, batch.attention_mask)
