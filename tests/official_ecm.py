"""What the MAFA program makes of a judge's verdicts, in the terms of ours."""

import torch
from torch import Tensor

from truepair.objectives.ecm import Connections
from truepair.relations.actions import Relabel
from truepair.relations.batch import BatchRelations
from truepair.relations.pairs import PairSet, Side
from truepair.relations.zones import Zone, Zones

OFFICIAL = {"judge_second": False, "once": False}
"""Its rules: the second-hardest unseen, a match found from both sides counted twice."""


def official_zones(low: float = 0.5, high: float = 0.8) -> Zones:
    """Strict inequalities on both sides: a score on a threshold is dropped."""
    return Zones(low, high, closed=False)


def official_order(connections: Connections, i2t_scores: Tensor, t2i_scores: Tensor, zones: Zones) -> Tensor:
    """Indices of the valid ITM rows in the row order of the MAFA program, int64 [<= R].

    Pairs; negatives of the text side, of the image side; matches likewise; second-hardest likewise.
    """
    groups = [torch.zeros_like(i2t_scores, dtype=torch.long)]
    for first, scores in ((1, t2i_scores), (2, i2t_scores)):
        zone = zones.of(scores)
        group = torch.full_like(zone, first).masked_fill(zone == Zone.MATCH, first + 2)
        groups.append(group.masked_fill(zone == Zone.DOUBTFUL, first + 4))
    place = torch.cat(groups).masked_fill(~connections.pairs.valid, 7)
    return torch.argsort(place, stable=True)[: int(connections.pairs.valid.sum())]


def positives(connections: Connections, side: Side, *, symmetric: bool) -> PairSet:
    """Positives of one ITC direction, own pairs included."""
    relations = BatchRelations(connections.matches.shape[0], symmetric=symmetric)
    return relations.adding("judge", connections.matches, Relabel()).positives(side)
