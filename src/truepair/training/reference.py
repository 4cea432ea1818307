"""A frozen dual encoder beside the student: SRCL's seed model, or a guide that detectors ask."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.mining.dual_encoder import DualEncoder
from truepair.models.minilm import sentence_vectors
from truepair.training.gathering import gather
from truepair.training.step_view import StepView
from truepair.training.towers import Towers


class ReferenceModel(Protocol):
    """Another model's features of the student's batches."""

    def features(self, view: StepView) -> tuple[Tensor, Tensor]:
        """L2-normalised image and text features of the pairs of all ranks [B, G] each, without gradient."""
        ...


class BatchReference:
    """Features of the very pixels and tokens that the student sees, as in SRCL; or of cached states of them.

    Args:
        towers: Those of the reference model.
    """

    def __init__(self, towers: Towers) -> None:
        self.towers = towers
        towers.model.requires_grad_(False)
        towers.model.eval()

    @torch.no_grad()
    def features(self, view: StepView) -> tuple[Tensor, Tensor]:
        """Features of a batch, see ``ReferenceModel.features``."""
        self.towers.model.to(view.image_features.device)
        _, images = self.towers.encode_images(view.local, view.moment.epoch)
        text = self.towers.encode_text(view.local)
        return gather(images), gather(text.feature)


class EncoderReference:
    """The means of the states that the student's encoders make, as they come: images and texts are of two spaces."""

    @torch.no_grad()
    def features(self, view: StepView) -> tuple[Tensor, Tensor]:
        """L2-normalised means of image states [B, W] and of text states [B, D]."""
        images = F.normalize(torch.cat([part.mean(dim=1) for part in view.image_states]), dim=1)
        return gather(images), sentence_vectors(view.text_states.detach(), view.batch.attention_mask)


class PlainReference:
    """Features of the plain images and captions, for models with a preprocessing of their own (CLIP, SigLIP).

    Args:
        encoder: Reads the images of the training table by row.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def features(self, view: StepView) -> tuple[Tensor, Tensor]:
        """Features of a batch, see ``ReferenceModel.features``."""
        device = view.image_features.device
        images = self.encoder.image_features(view.local.source_index).to(device)
        texts = self.encoder.text_features(view.local.captions).to(device)
        return gather(images), gather(texts)
