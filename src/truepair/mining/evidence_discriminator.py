"""Agreement of image-image, text-text and image-text evidence as con-D; a detector of our own."""

from pathlib import Path

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.errors import CheckpointError
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.evidence_model import EvidenceModel
from truepair.mining.evidence_tables import EvidenceTables
from truepair.mining.run_inputs import RunInputs
from truepair.models.fingerprint import combined_key


class EvidenceDiscriminator:
    """Judges (image i, caption j) by all of pairs i and j: their images, their captions, and each across.

    A score is a few dot products of features that were computed once, so it is not worth remembering. Nor would a
    memory by ids be right: the verdict on an image depends on the caption it is paired with.

    Args:
        model: the fitted model.
        tables: features of the training table; ``PairBatch.source_index`` numbers its rows.
        name: for logs.
        device: where features are kept and scores computed.

    Raises:
        CheckpointError: the features are of other encoders than the model was fitted on.
    """

    repeatable = False

    def __init__(
        self, model: EvidenceModel, tables: EvidenceTables, *, name: str, device: torch.device | str = "cpu"
    ) -> None:
        if tables.encoders != model.encoders:
            raise CheckpointError(f"{name} was fitted on features of other encoders than this run's; fit it again")
        self.model = model.to(device)
        self.device = torch.device(device)
        self.spaces = {part: features.to(device) for part, features in model.spaces.project(tables).items()}
        self.name = name
        self.fingerprint = combined_key(model=model.fingerprint, images=tables.images, texts=tables.texts)

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Discriminator.score``; of own pairs they say nothing."""
        rows = batch.source_index.to(self.device)
        left, right = rows[images.to(self.device)], rows[texts.to(self.device)]
        with torch.no_grad():
            return self.model.score(self.spaces, left, right).to(images.device)


def open_evidence(config: DiscriminatorConfig, run: RunInputs, device: torch.device | str) -> EvidenceDiscriminator:
    """Open a folder that ``EvidenceModel.save`` wrote, on the cached features of a run.

    Raises:
        CheckpointError: there is none, or it was fitted on other encoders.
        ConfigError: the run has no cached features.
    """
    model, tables = EvidenceModel.load(Path(config.checkpoint)), EvidenceTables.of_run(run)
    return EvidenceDiscriminator(model, tables, name=f"evidence {config.checkpoint}", device=device)
