"""Dual encoders as judges see them: plain images and captions to features of one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from truepair.data.collate import PairCollator
from truepair.data.preprocessing import Preprocessing
from truepair.data.table import PairTable
from truepair.errors import CheckpointError
from truepair.mining.input_keys import caption_input_key, image_input_key
from truepair.mining.plain_images import PlainImages
from truepair.mining.transformers_inputs import load_model, load_part, processor_key, processor_transform
from truepair.models.albef import AlbefModel
from truepair.models.albef_checkpoint import load_albef
from truepair.models.config import AlbefConfig
from truepair.models.fingerprint import combined_key, encoder_fingerprint
from truepair.models.image_transform import image_transform


class DualEncoder(Protocol):
    """Features of plain images and of captions.

    Attributes:
        fingerprint: of weights and preprocessing.
    """

    fingerprint: str

    def image_features(self, rows: Tensor) -> Tensor:
        """Features of the images of rows [R] of the table, L2-normalised float32 [R, E]."""
        ...

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of T captions, L2-normalised float32 [T, E]."""
        ...


class TransformersDualEncoder:
    """CLIP, SigLIP and what else has ``get_image_features`` and ``get_text_features``.

    Args:
        model: it is put into evaluation mode and gets no gradient.
        tokenizer: its own.
        images: reads images through its own processor.
        fingerprint: of weights and preprocessing.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, images: PlainImages, *, fingerprint: str
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def image_features(self, rows: Tensor) -> Tensor:
        """Features of images, see ``DualEncoder.image_features``."""
        found = self.model.get_image_features(pixel_values=self.images(rows).to(self.model.device))
        return F.normalize(_pooled(found).float(), dim=1)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions, see ``DualEncoder.text_features``."""
        # SigLIP was trained on full-length padding, without a mask; to CLIP the padding makes no difference.
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return F.normalize(_pooled(self.model.get_text_features(**tokens.to(self.model.device))).float(), dim=1)


class AlbefDualEncoder:
    """The features that ITC of our own model compares.

    Args:
        model: it is put into evaluation mode and gets no gradient.
        collator: its tokenization.
        images: reads images through its own preprocessing.
        fingerprint: of weights and preprocessing.
    """

    def __init__(self, model: AlbefModel, collator: PairCollator, images: PlainImages, *, fingerprint: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.collator = collator
        self.images = images
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def image_features(self, rows: Tensor) -> Tensor:
        """Features of images, see ``DualEncoder.image_features``."""
        features: Tensor = self.model.encode_image(self.images(rows).to(self.model.device)).feature
        return features.float()

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions, see ``DualEncoder.text_features``."""
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(captions))
        features: Tensor = self.model.encode_text(ids, mask).feature
        return features.float()


def open_dual_encoder(checkpoint: str, table: PairTable, device: torch.device | str) -> DualEncoder:
    """Open a folder of ours, or any dual encoder of transformers by folder or name.

    Args:
        checkpoint: folder or name on the hub.
        table: the images it will be asked about, by row.
        device: where it runs.

    Raises:
        CheckpointError: there is none, it is damaged, or it is no dual encoder.
    """
    settings, _ = load_part(_Settings, checkpoint)
    if settings.get("model_type") == AlbefConfig.model_type:
        return _open_albef(Path(checkpoint), table, device)
    model = load_model(AutoModel, checkpoint).to(device)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise CheckpointError(
            f"{checkpoint} is a {type(model).__name__}, not a dual encoder; give CLIP, SigLIP or such"
        )
    processor, tokenizer = load_part(AutoImageProcessor, checkpoint), load_part(AutoTokenizer, checkpoint)
    fingerprint = combined_key(model=encoder_fingerprint(model), inputs=processor_key(processor, tokenizer))
    images = PlainImages(table, processor_transform(processor))
    return TransformersDualEncoder(model, tokenizer, images, fingerprint=fingerprint)


class _Settings:
    """The config file of a checkpoint, read like a model."""

    from_pretrained = PretrainedConfig.get_config_dict


def _open_albef(folder: Path, table: PairTable, device: torch.device | str) -> AlbefDualEncoder:
    own, model = Preprocessing.load(folder), load_albef(folder).to(device)
    fingerprint = combined_key(
        model=encoder_fingerprint(model), images=image_input_key(own), captions=caption_input_key(own)
    )
    images = PlainImages(table, image_transform(own.transform, model.image_encoder, train=False))
    return AlbefDualEncoder(model, own.collator(), images, fingerprint=fingerprint)


def _pooled(output: Any) -> Tensor:
    """The features, which transformers returns as they are or as the ``pooler_output`` of an output."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
