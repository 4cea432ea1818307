"""A frozen dual encoder beside the student: SRCL's seed model, or a guide that detectors ask."""

from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.devices import sent
from truepair.engine.distributed.gathering import gather
from truepair.judges.base import FeatureReader
from truepair.methods.encode import BatchEncoder, EncodedBatch
from truepair.models.encoders.minilm import sentence_vectors

_AT_ONCE = 256  # states that go through the heads together

_MOST_FEATURES = 1_000_000  # 1 GB at 256 dimensions


class FrozenModel(Protocol):
    """Another model's features of the student's batches."""

    def features(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """L2-normalised image and text features of the pairs of all ranks [B, G] each, without gradient."""
        ...


class _FrozenEncoder:
    def __init__(self, encoder: BatchEncoder) -> None:
        self.encoder = encoder
        encoder.model.requires_grad_(False)
        encoder.model.eval()

    def follow(self, device: torch.device) -> None:
        """Move the model to the student's device, unless it is there: to look at all of its modules takes 10 ms."""
        if self.encoder.model.device != device:
            self.encoder.model.to(device)


class FrozenOnBatch(_FrozenEncoder):
    """Features of the very pixels and tokens that the student sees, as in SRCL; or of cached states of them.

    Args:
        encoder: Of the frozen model.
    """

    @torch.no_grad()
    def features(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """Image and text features of a batch ([B, G], [B, G]), see ``FrozenModel.features``."""
        self.follow(encoded.image_features.device)
        _, images = self.encoder.encode_images(encoded.local, encoded.info.epoch)
        text = self.encoder.encode_texts(encoded.local)
        return gather(images), gather(text.features)


class FrozenOnStates(_FrozenEncoder):
    """Features of cached states: each image view and caption of the table goes through the heads once, not each epoch.

    Args:
        encoder: Of the frozen model, with caches of image and caption states.
    """

    @torch.no_grad()
    def features(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """Image and text features of a batch ([B, G], [B, G]), see ``FrozenModel.features``."""
        self.follow(encoded.image_features.device)
        cache, rows = self.encoder.image_cache, encoded.batch.source_index  # [B]
        assert cache is not None
        shown = cache.shown(rows, encoded.info.epoch, self.encoder.seed)  # [B]
        images, place_of_row = self._images
        texts, place_of_caption = self._texts
        places = torch.tensor([place_of_caption[caption] for caption in encoded.batch.captions])  # [B]
        shown, of_row = (sent(part, images.device) for part in (shown, place_of_row[rows]))
        return images[shown, of_row], texts[sent(places, texts.device)]

    @cached_property
    def _images(self) -> tuple[Tensor, Tensor]:
        """Features of each encoded of the R images of the table [V, R, E], and the place of each row's image [T]."""
        cache, model = self.encoder.image_cache, self.encoder.model
        assert cache is not None
        used, place_of_row = cache.image_rows.unique(return_inverse=True)  # [R], [T]
        found = [
            torch.cat([model.project_image(states.gather(part).to(model.device)) for part in used.split(_AT_ONCE)])
            for states in cache.views
        ]
        return torch.stack(found), place_of_row

    @cached_property
    def _texts(self) -> tuple[Tensor, dict[str, int]]:
        """Features of the C captions of the table [C, E], and the place of each."""
        cache, model = self.encoder.caption_cache, self.encoder.model
        assert cache is not None
        captions = list(cache.places)
        found = []
        for start in range(0, len(captions), _AT_ONCE):
            states, mask = (part.to(model.device) for part in cache.gather(captions[start : start + _AT_ONCE]))
            found.append(model.project_text(states, mask))
        return torch.cat(found), {caption: place for place, caption in enumerate(captions)}


def frozen_model(encoder: BatchEncoder) -> FrozenOnBatch | FrozenOnStates:
    """The features of one of our models, of cached states if it has any, and if their features fit into memory."""
    images, captions = encoder.image_cache, encoder.caption_cache
    if images is None or captions is None or len(images.views) * len(images) + len(captions.places) > _MOST_FEATURES:
        return FrozenOnBatch(encoder)
    return FrozenOnStates(encoder)


class FrozenMeans:
    """The means of the states that the student's encoders make, as they come: images and texts are of two spaces."""

    @torch.no_grad()
    def features(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """L2-normalised means of image states [B, W] and of text states [B, D]."""
        images = F.normalize(torch.cat([part.mean(dim=1) for part in encoded.image_states]), dim=1)
        return gather(images), sentence_vectors(encoded.text_states.detach(), encoded.batch.attention_mask)


class FrozenOnPlain:
    """Features of the plain images and captions, for models with a preprocessing of their own (CLIP, SigLIP).

    Args:
        encoder: Reads the images of the training table by row.
    """

    def __init__(self, encoder: FeatureReader) -> None:
        self.encoder = encoder

    def features(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """Image and text features of a batch ([B, G], [B, G]), see ``FrozenModel.features``."""
        device = encoded.image_features.device
        images = self.encoder.image_features(encoded.local.source_index).to(device)
        texts = self.encoder.text_features(encoded.local.captions).to(device)
        return gather(images), gather(texts)
