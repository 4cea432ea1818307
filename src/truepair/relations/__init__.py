"""What is known about pairs: who is a match although nobody declared it, who says so, and what is done about it.

Needs nothing but torch, numpy and pyarrow.
"""

from truepair.relations.actions import Action, ItmRole, Keep, Mask, Relabel, Reweight, Skip, Smooth
from truepair.relations.batch import BatchRelations, Finding
from truepair.relations.detectors import (
    Detector,
    GuideSimilarity,
    Judged,
    LowWeight,
    MomentumSimilarity,
    RandomPairs,
    Recorded,
    SameCaption,
    SameGroup,
    SameImage,
    Signals,
)
from truepair.relations.ledger import Ledger, VerdictIndex, read_ledger, read_verdicts
from truepair.relations.pairs import PairSet, same_pair
from truepair.relations.rules import ACTIONS, DETECTORS, Rule, apply_rules
from truepair.relations.zones import Zone, Zones

__all__ = [
    "ACTIONS",
    "DETECTORS",
    "Action",
    "BatchRelations",
    "Detector",
    "Finding",
    "GuideSimilarity",
    "ItmRole",
    "Judged",
    "Keep",
    "Ledger",
    "LowWeight",
    "Mask",
    "MomentumSimilarity",
    "PairSet",
    "RandomPairs",
    "Recorded",
    "Relabel",
    "Reweight",
    "Rule",
    "SameCaption",
    "SameGroup",
    "SameImage",
    "Signals",
    "Skip",
    "Smooth",
    "VerdictIndex",
    "Zone",
    "Zones",
    "apply_rules",
    "read_ledger",
    "read_verdicts",
    "same_pair",
]
