"""Similarity of a dual encoder as a judge, calibrated to probabilities."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.data.table import PairTable
from truepair.judges.base import FeatureReader, JudgeConfig, JudgeInputs, PairReader, PlainImages, Read
from truepair.judges.calibration import CALIBRATION_FILE, DualCalibration
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, encoder_fingerprint, image_input_key
from truepair.models.open import OpenedModel, open_model
from truepair.relations.similarity import paired_similarities


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
        return lambda image, text: self.calibration.probabilities(paired_similarities(images[image], texts[text]))


def open_dual(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> DualJudge:
    """Open a dual encoder and its calibration.

    Raises:
        CheckpointError: the encoder or its calibration does not exist, is damaged, or is for something else.
        ConfigError: there is no calibration.
    """
    encoder = DualFeatures(open_model(config.checkpoint), run.table, device)
    file = Path(config.checkpoint) / CALIBRATION_FILE if config.calibration is None else Path(config.calibration)
    calibration = DualCalibration.load(file, encoder.fingerprint)
    return DualJudge(encoder, calibration, name=f"dual {config.checkpoint}", device=device)


class DualFeatures:
    """The features that a dual encoder compares, of plain images and captions through its own preprocessing.

    Args:
        opened: the model; it is put into evaluation mode and gets no gradient.
        table: the images it is asked about, by row.
        device: where it runs.
    """

    def __init__(self, opened: OpenedModel, table: PairTable, device: torch.device | str) -> None:
        self.model = opened.model.to(device).eval().requires_grad_(False)
        self.collator = opened.preprocessing.collator()
        self.images = PlainImages(table, opened.preprocessing.images())
        self.fingerprint = combined_key(
            model=encoder_fingerprint(self.model),
            images=image_input_key(opened.preprocessing),
            captions=caption_input_key(opened.preprocessing),
        )

    @torch.inference_mode()
    def image_features(self, rows: Tensor) -> Tensor:
        """Features of the images of some rows [U, E], see ``FeatureReader.image_features``."""
        return self.model.encode_images(self.images(rows).to(self.model.device)).features.float()

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions [V, E], see ``FeatureReader.text_features``."""
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(captions))
        return self.model.encode_texts(ids, mask).features.float()
