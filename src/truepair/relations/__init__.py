"""What we know about the pairs of a batch: who is a match although nobody declared it."""

from truepair.relations.actions import Action, ItmRole, Keep, Mask, Relabel, Reweight, Skip, Smooth
from truepair.relations.batch import BatchRelations, Finding, Rule
from truepair.relations.detectors import (
    Detection,
    Detector,
    GuideSimilarity,
    JudgedScore,
    MomentumSimilarity,
    RecordedVerdict,
    SameCaption,
    SameGroup,
    SameImage,
    Signals,
)
from truepair.relations.ledger import Ledger, VerdictIndex, merge_ledger, read_ledger, read_verdicts
from truepair.relations.pairs import PairSet, same_pair

__all__ = [
    "Action",
    "BatchRelations",
    "Detection",
    "Detector",
    "Finding",
    "GuideSimilarity",
    "ItmRole",
    "JudgedScore",
    "Keep",
    "Ledger",
    "Mask",
    "MomentumSimilarity",
    "PairSet",
    "RecordedVerdict",
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
    "merge_ledger",
    "read_ledger",
    "read_verdicts",
    "same_pair",
]
