"""A ledger as a judge: what was mined beforehand, or judged in an earlier run, is all that it knows."""

import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.relations.ledger import VerdictIndex, open_index


class RecordedJudge:
    """Gives each pair the probability that a ledger has for it, and those it does not have 0.

    So any student can be trained with ECM by verdicts that other encoders mined; of own pairs a ledger says nothing.
    A score is looked up, so it is not worth remembering.

    Args:
        verdicts: The ledger.
        name: For logs.
    """

    repeatable = False

    def __init__(self, verdicts: VerdictIndex, *, name: str) -> None:
        self.verdicts = verdicts
        self.name = name
        self.fingerprint = verdicts.fingerprint

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities [P], see ``Judge.score``."""
        known = self.verdicts.within(batch.image_id, batch.caption_id).dense()  # [B, B]
        return known[images, texts]


def open_recorded(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> RecordedJudge:
    """Open the folder or file of a ledger.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    verdicts = open_index(config.checkpoint).of_pictures(run.table.image_ids, run.table.picture_keys)
    return RecordedJudge(verdicts, name=f"recorded {config.checkpoint}")
