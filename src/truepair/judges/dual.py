"""Similarity of a dual encoder as a judge, calibrated to probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from truepair.data.pairs import PairBatch, PairCollator
from truepair.data.preprocessing import Preprocessing
from truepair.data.table import PairTable
from truepair.errors import CheckpointError
from truepair.judges.base import FeatureReader, JudgeConfig, JudgeInputs, PairReader, PlainImages, Read
from truepair.judges.calibration import CALIBRATION_FILE, DualCalibration
from truepair.models.checkpoints.load import load_albef, load_hub_model, load_part, processor_key, processor_transform
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, encoder_fingerprint, image_input_key
from truepair.models.encoders.images import image_transform
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig


class DualJudge(PairReader):
    """Calibrated cosine of plain image and caption.

    Args:
        encoder: the dual encoder.
        calibration: from cosine to probability.
        name: for logs.
        device: where the encoder runs.
    """

    repeatable = True
    pairs_at_once = 65_536

    def __init__(
        self, encoder: FeatureReader, calibration: DualCalibration, *, name: str, device: torch.device | str
    ) -> None:
        self.encoder = encoder
        self.calibration = calibration
        self.name = name
        self.fingerprint = combined_key(encoder=encoder.fingerprint, scale=calibration.scale, bias=calibration.bias)
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """Where pairs are read."""
        return self._device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Features of some images [U] and captions [V], see ``PairReader.encode``."""
        images = self.encoder.image_features(batch.source_index[image_rows].cpu())  # [U, E]
        texts = self.encoder.text_features([batch.captions[row] for row in text_rows.tolist()])  # [V, E]
        return lambda image, text: self.calibration.probabilities((images[image] * texts[text]).sum(dim=1))


def open_dual(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> DualJudge:
    """Open a dual encoder and its calibration.

    Raises:
        CheckpointError: the encoder or its calibration does not exist, is damaged, or is for something else.
        ConfigError: there is no calibration.
    """
    encoder = open_feature_reader(config.checkpoint, run.table, device)
    file = Path(config.checkpoint) / CALIBRATION_FILE if config.calibration is None else Path(config.calibration)
    calibration = DualCalibration.load(file, encoder.fingerprint)
    return DualJudge(encoder, calibration, name=f"dual {config.checkpoint}", device=device)


class HubFeatures:
    """Features of CLIP, SigLIP and what else has ``get_image_features`` and ``get_text_features``.

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
        """Features of the images of some rows [U, E], see ``FeatureReader.image_features``."""
        found = self.model.get_image_features(pixel_values=self.images(rows).to(self.model.device))
        return F.normalize(_pooled(found).float(), dim=1)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions [V, E], see ``FeatureReader.text_features``."""
        # SigLIP was trained on full-length padding, without a mask; to CLIP the padding makes no difference.
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return F.normalize(_pooled(self.model.get_text_features(**tokens.to(self.model.device))).float(), dim=1)


class AlbefFeatures:
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
        """Features of the images of some rows [U, E], see ``FeatureReader.image_features``."""
        features: Tensor = self.model.encode_images(self.images(rows).to(self.model.device)).features
        return features.float()

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions [V, E], see ``FeatureReader.text_features``."""
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(captions))
        features: Tensor = self.model.encode_texts(ids, mask).features
        return features.float()


def open_feature_reader(checkpoint: str, table: PairTable, device: torch.device | str) -> FeatureReader:
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
    model = load_hub_model(AutoModel, checkpoint).to(device)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise CheckpointError(
            f"{checkpoint} is a {type(model).__name__}, not a dual encoder; give CLIP, SigLIP or such"
        )
    processor, tokenizer = load_part(AutoImageProcessor, checkpoint), load_part(AutoTokenizer, checkpoint)
    fingerprint = combined_key(model=encoder_fingerprint(model), inputs=processor_key(processor, tokenizer))
    images = PlainImages(table, processor_transform(processor))
    return HubFeatures(model, tokenizer, images, fingerprint=fingerprint)


def _open_albef(folder: Path, table: PairTable, device: torch.device | str) -> AlbefFeatures:
    own, model = Preprocessing.load(folder), load_albef(folder).to(device)
    fingerprint = combined_key(
        model=encoder_fingerprint(model), images=image_input_key(own), captions=caption_input_key(own)
    )
    images = PlainImages(table, image_transform(own.transform, model.image_encoder, train=False))
    return AlbefFeatures(model, own.collator(), images, fingerprint=fingerprint)


class _Settings:
    """The config file of a checkpoint, read like a model."""

    from_pretrained = PretrainedConfig.get_config_dict


def _pooled(output: Any) -> Tensor:
    """The features, which transformers returns as they are or as the ``pooler_output`` of an output."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
