"""Efficient connection mining (ECM, COSMO/MAFA): what a judge's verdicts make of the hardest pairs of a batch.

The student picks the hardest candidates, the judge (the paper's con-D) scores them, and each falls into a zone:
negatives stay what they are; a match that nobody declared becomes a positive of ITC, ITM and MLM; where nobody can
say, the second-hardest takes its place in ITM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.objectives.itm import HardNegatives, MatchingPairs
from truepair.relations.pairs import PairSet
from truepair.relations.zones import Zone, Zones


@dataclass(frozen=True)
class Connections:
    """The outcome of ECM for a batch of B pairs.

    Attributes:
        pairs: ITM rows: the pairs, then one row per text, then one row per image; R = 3B.
        matches: The new matches as (image row, text row) cells with the sides that found them, those found per image
            first; a pair found from both sides stands twice. Values are the judge's probabilities [B, B].
        converted: The same without sides, each once, or as often as found: what MLM reads [B, B].
        counts: Candidates per direction and zone, for example ``"t2i/above"``; scalars on the device, int64.
    """

    pairs: MatchingPairs
    matches: PairSet
    converted: PairSet
    counts: dict[str, Tensor]


def connect(
    candidates: HardNegatives,
    i2t_scores: Tensor,
    t2i_scores: Tensor,
    zones: Zones,
    *,
    judge_second: bool = True,
    once: bool = True,
) -> Connections:
    """Sort the hardest pairs of a batch into zones, and say what each loss makes of them.

    The MAFA program takes ``Zones(low, high, closed=False)``, and sets neither ``judge_second`` nor ``once``.

    Args:
        candidates: Hardest and second-hardest candidates by the student's similarity.
        i2t_scores: The judge's match probability of each image with its candidate texts [B, 2] (or [B] for the hardest
            only); NaN where it was not asked. The second score is read only where the hardest is doubtful.
        t2i_scores: The same of each text with its candidate images.
        zones: Thresholds.
        judge_second: Put the second-hardest through the zones too, instead of calling it a negative unseen.
        once: Count a match found from both sides once in ITM and MLM.

    Returns:
        ITM pairs with labels, and the new matches for ITC and MLM::

            relations = relations.adding("judge", connections.matches, Relabel())
    """
    size = len(candidates.i2t)
    own = torch.arange(size, device=candidates.i2t.device)
    text_side = _Side.judged(candidates.t2i, t2i_scores, zones, judge_second)
    image_side = _Side.judged(candidates.i2t, i2t_scores, zones, judge_second)
    by_text, by_image = text_side.converted(), image_side.converted()  # [texts, images], [images, texts]
    twice = by_text.T.contains(image_side.cells()) & image_side.is_match() if once else own < 0
    from_image = torch.arange(len(by_image) + len(by_text), device=own.device) < len(by_image)
    matches = PairSet(
        torch.cat([by_image.rows, by_text.columns]),
        torch.cat([by_image.columns, by_text.rows]),
        torch.cat([by_image.values, by_text.values]),
        (size, size),
        from_image,
        ~from_image,
    )
    return Connections(
        pairs=MatchingPairs(
            images=torch.cat([own, text_side.partner(own), own]),
            texts=torch.cat([own, own, image_side.partner(own)]),
            labels=torch.cat([torch.ones_like(own), text_side.is_match().long(), image_side.is_match().long()]),
            valid=torch.cat([own >= 0, text_side.valid, image_side.valid & ~twice]),
        ),
        matches=matches,
        converted=matches.where(matches.first_of_each().sort().values).mutual() if once else matches.mutual(),
        counts={**text_side.counts("t2i"), **image_side.counts("i2t")},
    )


@dataclass(frozen=True)
class _Side:
    """One direction: for each anchor the candidate that ITM reads, and why."""

    chosen: Tensor  # [B] candidate row, -1: none
    scores: Tensor  # [B] its score
    zone: Tensor  # [B] zone of the chosen candidate; NEGATIVE for an unseen second-hardest
    second: Tensor  # [B] whether the second-hardest was chosen
    first_zone: Tensor  # [B] zone of the hardest
    valid: Tensor  # [B]

    @classmethod
    def judged(cls, candidates: Tensor, scores: Tensor, thresholds: Zones, judge_second: bool) -> "_Side":
        """Choose between the hardest and the second-hardest by their zones."""
        if scores.dim() == 1:
            scores = torch.stack([scores, torch.full_like(scores, torch.nan)], dim=1)
        zones = torch.where(candidates < 0, int(Zone.NONE), thresholds.of(scores))  # [B, 2]
        if not judge_second:
            zones = torch.stack([zones[:, 0], torch.where(candidates[:, 1] < 0, int(Zone.NONE), int(Zone.NEGATIVE))], 1)
        second = zones[:, 0] == Zone.DOUBTFUL
        zone = torch.where(second, zones[:, 1], zones[:, 0])
        return cls(
            chosen=torch.where(second, candidates[:, 1], candidates[:, 0]),
            scores=torch.where(second, scores[:, 1], scores[:, 0]),
            zone=zone,
            second=second,
            first_zone=zones[:, 0],
            valid=(zone == Zone.NEGATIVE) | (zone == Zone.MATCH),
        )

    def is_match(self) -> Tensor:
        """Which anchors found a new match [B]."""
        return self.zone == Zone.MATCH

    def cells(self) -> PairSet:
        """(anchor, chosen candidate) of every anchor [B, B]; anchors without one point at their own pair."""
        own = torch.arange(len(self.chosen), device=self.chosen.device)
        return PairSet(own, self.partner(own), self.scores, (len(own), len(own)))

    def converted(self) -> PairSet:
        """(anchor, match) cells of the new matches [B, B]."""
        return self.cells().where(self.is_match())

    def partner(self, own: Tensor) -> Tensor:
        """The chosen candidate, or the own pair as a stand-in where there is none [B]."""
        return torch.where(self.chosen < 0, own, self.chosen)

    def counts(self, direction: str) -> dict[str, Tensor]:
        """Hardest candidates per zone; matches and negatives among the second-hardest; anchors left without a row."""
        return {
            f"{direction}/below": (self.first_zone == Zone.NEGATIVE).sum(),
            f"{direction}/between": (self.first_zone == Zone.DOUBTFUL).sum(),
            f"{direction}/above": (self.first_zone == Zone.MATCH).sum(),
            f"{direction}/second_converted": (self.second & self.is_match()).sum(),
            f"{direction}/second_negative": (self.second & (self.zone == Zone.NEGATIVE)).sum(),
            f"{direction}/left_out": (~self.valid).sum(),
        }
