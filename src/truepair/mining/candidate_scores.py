"""con-D's scores of a batch's hardest candidates: each cell once, the second-hardest only where it matters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.mining.discriminator import Discriminator
from truepair.objectives.matching import HardNegatives
from truepair.objectives.zones import Zone, ZoneConfig, zones_of
from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class CandidateScores:
    """What con-D said about the candidates of a batch of B pairs, as ``objectives.zones.connect`` takes it.

    Attributes:
        i2t: match probability of each image with its candidate texts, NaN where it was not asked, float32 [B, 2].
        t2i: the same of each text with its candidate images [B, 2].
        judged: the cells that were asked about, as (image row, text row), each once; values are the scores [B, B].
    """

    i2t: Tensor  # [B, 2]
    t2i: Tensor  # [B, 2]
    judged: PairSet


def judge_candidates(
    candidates: HardNegatives, batch: PairBatch, discriminator: Discriminator, zones: ZoneConfig
) -> CandidateScores:
    """Ask con-D about the hardest candidates, and about the second-hardest where the zones call for it.

    That is where the hardest is in between and ``zones.judge_second`` is set. A pair that is a candidate from both
    sides is asked once.

    Args:
        candidates: hardest and second-hardest candidates by the student's similarity.
        batch: the B pairs they are of.
        discriminator: the judge.
        zones: thresholds and rules of ECM.
    """
    size = len(candidates.i2t)
    image, text = _cells(candidates)  # [2B, 2] each: first the candidates of the images, then those of the texts
    exists = torch.cat([candidates.i2t, candidates.t2i]) >= 0  # [2B, 2]
    scores = torch.full_like(image, torch.nan, dtype=torch.float32)  # [2B, 2]
    asked = _Asked(batch, discriminator, size)
    first = exists[:, 0]
    scores[first, 0] = asked.score(image[first, 0], text[first, 0])
    if zones.judge_second:
        second = exists[:, 1] & (zones_of(scores[:, 0], zones) == Zone.BETWEEN)
        scores[second, 1] = asked.score(image[second, 1], text[second, 1])
    return CandidateScores(scores[:size], scores[size:], asked.judged)


def _cells(candidates: HardNegatives) -> tuple[Tensor, Tensor]:
    """Image row and text row of each candidate, those of the images first, [2B, 2] each."""
    own = torch.arange(len(candidates.i2t), device=candidates.i2t.device)[:, None].expand(-1, 2)  # [B, 2]
    return torch.cat([own, candidates.t2i]), torch.cat([candidates.i2t, own])


class _Asked:
    """The cells of a batch that were asked about so far."""

    def __init__(self, batch: PairBatch, discriminator: Discriminator, size: int) -> None:
        nothing = torch.zeros(0, dtype=torch.long, device=batch.image_id.device)
        self.batch = batch
        self.discriminator = discriminator
        self.judged = PairSet(nothing, nothing, nothing.float(), (size, size))

    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores of cells [P], asking about those that are new."""
        cells = PairSet(images, texts, torch.zeros_like(images, dtype=torch.float32), self.judged.shape)
        new = cells.distinct()
        new = new.where(~self.judged.contains(new))
        if len(new):
            answers = self.discriminator.score(self.batch, new.rows, new.columns)
            self.judged = PairSet.union(self.judged, new.with_values(answers))
        return self.judged.values[torch.searchsorted(self.judged.linear, cells.linear)]
