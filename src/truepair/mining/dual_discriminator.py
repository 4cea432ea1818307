"""Similarity of a dual encoder as con-D."""

from pathlib import Path

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.dual_calibration import FILE, DualCalibration
from truepair.mining.dual_encoder import DualEncoder, open_dual_encoder
from truepair.mining.run_inputs import RunInputs
from truepair.models.fingerprint import combined_key


class DualDiscriminator:
    """Calibrated cosine of plain image and caption.

    Args:
        encoder: the dual encoder.
        calibration: from cosine to probability.
        name: for logs.
    """

    repeatable = True

    def __init__(self, encoder: DualEncoder, calibration: DualCalibration, *, name: str) -> None:
        self.encoder = encoder
        self.calibration = calibration
        self.name = name
        self.fingerprint = combined_key(encoder=encoder.fingerprint, scale=calibration.scale, bias=calibration.bias)

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Discriminator.score``."""
        if not len(images):
            return torch.zeros(0, device=images.device)
        with torch.inference_mode():
            image_rows, image_of = images.unique(return_inverse=True)  # [U], [P]
            text_rows, text_of = texts.unique(return_inverse=True)  # [V], [P]
            image_features = self.encoder.image_features(batch.source_index[image_rows].cpu()).to(images.device)
            captions = [batch.captions[row] for row in text_rows.tolist()]
            text_features = self.encoder.text_features(captions).to(images.device)
            cosines = (image_features[image_of] * text_features[text_of]).sum(dim=1)  # [P]
            scores = self.calibration.probabilities(cosines)
        return scores.clone()  # outside inference mode, so that autograd may keep it


def open_dual(config: DiscriminatorConfig, run: RunInputs, device: torch.device | str) -> DualDiscriminator:
    """Open a dual encoder and its calibration.

    Raises:
        CheckpointError: the encoder or its calibration does not exist, is damaged, or is for something else.
        ConfigError: there is no calibration.
    """
    encoder = open_dual_encoder(config.checkpoint, run.table, device)
    file = Path(config.checkpoint) / FILE if config.calibration is None else Path(config.calibration)
    calibration = DualCalibration.load(file, encoder.fingerprint)
    return DualDiscriminator(encoder, calibration, name=f"dual {config.checkpoint}")
