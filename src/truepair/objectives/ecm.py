"""Efficient connection mining (ECM, COSMO/MAFA): what a discriminator's scores make of the hardest pairs of a batch.

The student picks the hardest candidates, the discriminator (con-D) scores them, and each candidate falls in one of
three zones: below ``low`` it is a true negative; above ``high`` it is a match that nobody declared, and becomes a
positive of ITC, ITM and MLM; in between nobody can say, so the second-hardest takes its place in ITM.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.objectives.itm import HardNegatives, MatchingPairs
from truepair.relations.actions import Action, Keep, Relabel, Skip
from truepair.relations.detectors import Detection, JudgedScore
from truepair.relations.pairs import PairSet


class Zone(IntEnum):
    """Where a candidate's score falls."""

    NONE = -1  # no candidate, no score, or (official inequalities) a score exactly on a threshold
    BELOW = 0
    BETWEEN = 1
    ABOVE = 2


ZONE_ACTIONS: dict[Zone, Action] = {Zone.BELOW: Keep(), Zone.BETWEEN: Skip(), Zone.ABOVE: Relabel()}
"""What ECM does in each zone, for the ledger."""


@dataclass(frozen=True)
class ZoneConfig:
    """Thresholds and rules of ECM. :meth:`official` gives those of the MAFA program.

    Attributes:
        low: Scores below it are true negatives.
        high: Scores above it are matches.
        symmetric: A match is a positive of both ITC directions, whoever found it.
        judge_second: Put the second-hardest through the zones too, instead of calling it a negative unseen.
        once: Count a match found from both sides once in ITM and MLM.
        closed: A score equal to ``high`` is a match and one equal to ``low`` is in between; otherwise such candidates
            are dropped, as strict inequalities on both sides do.
    """

    low: float = 0.5
    high: float = 0.8
    symmetric: bool = True
    judge_second: bool = True
    once: bool = True
    closed: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ConfigError(f"ecm.zones: low {self.low} and high {self.high} must satisfy 0 <= low <= high <= 1")

    @classmethod
    def official(cls, low: float = 0.5, high: float = 0.8) -> "ZoneConfig":
        """The rules of the MAFA program: one-sided, second-hardest unseen, duplicates twice, ties dropped."""
        return cls(low, high, symmetric=False, judge_second=False, once=False, closed=False)


@dataclass(frozen=True)
class Connections:
    """The outcome of ECM for a batch of B pairs.

    Attributes:
        pairs: ITM rows: the pairs, then one row per text, then one row per image; R = 3B.
        groups: Which part of the official row order each ITM row belongs to, int64 [R]: 0 pairs; 1, 2 negatives of the
            text and image side; 3, 4 conversions; 5, 6 second-hardest; 7 no row.
        i2t_positives: Positives of the image-to-text direction, own pairs included [B, B].
        t2i_positives: Positives of the text-to-image direction, as [texts, images] [B, B].
        converted: The new matches as (image, text) cells, those found per image first; values are con-D's scores.
        detection: The new matches with the sides that found them, for the relations of the batch::

            relations = relations.adding(connections.detection, Relabel())
        counts: Candidates per direction and zone, for example ``"t2i/above"``; scalars on the device, int64.
    """

    pairs: MatchingPairs
    groups: Tensor  # [R]
    i2t_positives: PairSet
    t2i_positives: PairSet
    converted: PairSet
    detection: Detection
    counts: dict[str, Tensor]

    def official_order(self) -> Tensor:
        """Indices of the valid ITM rows in the row order of the MAFA program, int64 [<= R]."""
        return torch.argsort(self.groups, stable=True)[: int(self.pairs.valid.sum())]


def zones_of(scores: Tensor, config: ZoneConfig) -> Tensor:
    """The :class:`Zone` of each score, int64 of the same shape; NaN (not judged) is ``NONE``."""
    zones = torch.full(scores.shape, int(Zone.NONE), dtype=torch.long, device=scores.device)
    above = scores >= config.high if config.closed else scores > config.high
    between = (scores > config.low) & (scores < config.high)
    if config.closed:
        between = between | (scores == config.low) & (scores < config.high)
    zones = zones.masked_fill(scores < config.low, int(Zone.BELOW))
    return zones.masked_fill(between, int(Zone.BETWEEN)).masked_fill(above, int(Zone.ABOVE))


def connect(candidates: HardNegatives, i2t_scores: Tensor, t2i_scores: Tensor, config: ZoneConfig) -> Connections:
    """Sort the hardest pairs of a batch into zones, and say what each loss makes of them.

    Args:
        candidates: Hardest and second-hardest candidates by the student's similarity.
        i2t_scores: con-D's match probability of each image with its candidate texts [B, 2] (or [B] for the hardest
            only); NaN where it was not asked. The second score is read only where the hardest is in between.
        t2i_scores: The same of each text with its candidate images.
        config: Thresholds and rules.

    Returns:
        ITM pairs with labels, positives of both ITC directions, and the new matches for MLM.
    """
    size = len(candidates.i2t)
    own = torch.arange(size, device=candidates.i2t.device)
    text_side = _Side.judged(candidates.t2i, t2i_scores, config)
    image_side = _Side.judged(candidates.i2t, i2t_scores, config)
    by_text, by_image = text_side.converted(), image_side.converted()  # [texts, images], [images, texts]
    twice = by_text.T.contains(image_side.cells()) & image_side.is_match() if config.once else own < 0
    converted = PairSet(
        torch.cat([by_image.rows, by_text.columns]),
        torch.cat([by_image.columns, by_text.rows]),
        torch.cat([by_image.values, by_text.values]),
        (size, size),
    )
    from_image = torch.arange(len(converted), device=own.device) < len(by_image)
    both = (converted, converted.T) if config.symmetric else (by_image, by_text)
    valid = torch.cat([own >= 0, text_side.valid, image_side.valid & ~twice])
    groups = torch.cat([torch.zeros_like(own), text_side.groups(1), image_side.groups(2)])
    return Connections(
        pairs=MatchingPairs(
            images=torch.cat([own, text_side.partner(own), own]),
            texts=torch.cat([own, own, image_side.partner(own)]),
            labels=torch.cat([torch.ones_like(own), text_side.is_match().long(), image_side.is_match().long()]),
            valid=valid,
        ),
        groups=torch.where(valid, groups, 7),
        i2t_positives=_with_own(both[0]),
        t2i_positives=_with_own(both[1]),
        converted=converted.where(converted.first_of_each().sort().values) if config.once else converted,
        detection=Detection(JudgedScore.name, converted, from_image, ~from_image),
        counts={**text_side.counts("t2i"), **image_side.counts("i2t")},
    )


@dataclass(frozen=True)
class _Side:
    """One direction: for each anchor the candidate that ITM reads, and why."""

    chosen: Tensor  # [B] candidate row, -1: none
    scores: Tensor  # [B] its score
    zone: Tensor  # [B] zone of the chosen candidate; BELOW for an unseen second-hardest
    second: Tensor  # [B] whether the second-hardest was chosen
    first_zone: Tensor  # [B] zone of the hardest
    valid: Tensor  # [B]

    @classmethod
    def judged(cls, candidates: Tensor, scores: Tensor, config: ZoneConfig) -> "_Side":
        """Choose between the hardest and the second-hardest by their zones."""
        if scores.dim() == 1:
            scores = torch.stack([scores, torch.full_like(scores, torch.nan)], dim=1)
        zones = torch.where(candidates < 0, int(Zone.NONE), zones_of(scores, config))  # [B, 2]
        if not config.judge_second:
            zones = torch.stack([zones[:, 0], torch.where(candidates[:, 1] < 0, int(Zone.NONE), int(Zone.BELOW))], 1)
        second = zones[:, 0] == Zone.BETWEEN
        zone = torch.where(second, zones[:, 1], zones[:, 0])
        return cls(
            chosen=torch.where(second, candidates[:, 1], candidates[:, 0]),
            scores=torch.where(second, scores[:, 1], scores[:, 0]),
            zone=zone,
            second=second,
            first_zone=zones[:, 0],
            valid=(zone == Zone.BELOW) | (zone == Zone.ABOVE),
        )

    def is_match(self) -> Tensor:
        """Which anchors found a new match [B]."""
        return self.zone == Zone.ABOVE

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

    def groups(self, first: int) -> Tensor:
        """Place in the official row order [B]."""
        place = torch.where(self.is_match(), first + 2, first)
        return torch.where(self.second & ~self.is_match(), first + 4, place)

    def counts(self, direction: str) -> dict[str, Tensor]:
        """Hardest candidates per zone; matches and negatives among the second-hardest; anchors left without a row."""
        return {
            f"{direction}/below": (self.first_zone == Zone.BELOW).sum(),
            f"{direction}/between": (self.first_zone == Zone.BETWEEN).sum(),
            f"{direction}/above": (self.first_zone == Zone.ABOVE).sum(),
            f"{direction}/second_converted": (self.second & self.is_match()).sum(),
            f"{direction}/second_negative": (self.second & (self.zone == Zone.BELOW)).sum(),
            f"{direction}/left_out": (~self.valid).sum(),
        }


def _with_own(found: PairSet) -> PairSet:
    """New matches and own pairs, each with value 1, each cell once."""
    own = PairSet.diagonal(*found.shape, device=found.rows.device)
    return PairSet.union(own, found.with_values(torch.ones_like(found.values)))
