"""Similarity of a dual encoder as con-D."""

from pathlib import Path

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.dual_calibration import FILE, DualCalibration
from truepair.mining.dual_encoder import DualEncoder, open_dual_encoder
from truepair.mining.pair_reader import PairReader, Read
from truepair.mining.run_inputs import RunInputs
from truepair.models.fingerprint import combined_key


class DualDiscriminator(PairReader):
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
        self, encoder: DualEncoder, calibration: DualCalibration, *, name: str, device: torch.device | str
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
        """Features of some images and captions, see ``PairReader.encode``."""
        images = self.encoder.image_features(batch.source_index[image_rows].cpu())  # [U, E]
        texts = self.encoder.text_features([batch.captions[row] for row in text_rows.tolist()])  # [V, E]
        return lambda image, text: self.calibration.probabilities((images[image] * texts[text]).sum(dim=1))


def open_dual(config: DiscriminatorConfig, run: RunInputs, device: torch.device | str) -> DualDiscriminator:
    """Open a dual encoder and its calibration.

    Raises:
        CheckpointError: the encoder or its calibration does not exist, is damaged, or is for something else.
        ConfigError: there is no calibration.
    """
    encoder = open_dual_encoder(config.checkpoint, run.table, device)
    file = Path(config.checkpoint) / FILE if config.calibration is None else Path(config.calibration)
    calibration = DualCalibration.load(file, encoder.fingerprint)
    return DualDiscriminator(encoder, calibration, name=f"dual {config.checkpoint}", device=device)
