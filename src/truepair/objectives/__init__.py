"""Pure mathematics on tensors: the contrastive loss and its weights, ITM, MLM, and bounds on mutual information."""

from truepair.objectives.contrastive import ContrastiveOutput, DirectionLosses, contrastive_loss
from truepair.objectives.counter import keyed_uniform, sample_keys
from truepair.objectives.direction import Direction
from truepair.objectives.masking import MaskingConfig, TokenMasker, mlm_loss
from truepair.objectives.matching import (
    HardNegatives,
    MatchingConfig,
    MatchingPairs,
    choose_candidates,
    hardest_negatives,
    itm_loss,
    matching_pairs,
)
from truepair.objectives.regulation import Regulation, RegulationConfig
from truepair.objectives.zones import Connections, Zone, ZoneConfig, connect, zones_of

__all__ = [
    "Connections",
    "ContrastiveOutput",
    "Direction",
    "DirectionLosses",
    "HardNegatives",
    "MaskingConfig",
    "MatchingConfig",
    "MatchingPairs",
    "Regulation",
    "RegulationConfig",
    "TokenMasker",
    "Zone",
    "ZoneConfig",
    "choose_candidates",
    "connect",
    "contrastive_loss",
    "hardest_negatives",
    "itm_loss",
    "keyed_uniform",
    "matching_pairs",
    "mlm_loss",
    "sample_keys",
    "zones_of",
]
