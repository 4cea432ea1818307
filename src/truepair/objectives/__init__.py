"""Pure mathematics on tensors: the contrastive loss and its weights, ITM, MLM, and bounds on mutual information."""

from truepair.objectives.bounds import InformationBounds, information_bounds
from truepair.objectives.calibration import CalibrationConfig, WeightHistogram, calibrated, weight_histogram
from truepair.objectives.contrastive import ContrastiveOutput, DirectionLosses, contrastive_loss
from truepair.objectives.counter import keyed_uniform, sample_keys
from truepair.objectives.direction import Direction
from truepair.objectives.distillation import consistency_loss, momentum_targets
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
from truepair.objectives.queue import FeatureQueue
from truepair.objectives.regulation import Regulation, RegulationConfig, normalised_weights
from truepair.objectives.schedules import Schedule
from truepair.objectives.zones import ZONE_ACTIONS, Connections, Zone, ZoneConfig, connect, zones_of

__all__ = [
    "ZONE_ACTIONS",
    "CalibrationConfig",
    "Connections",
    "ContrastiveOutput",
    "Direction",
    "DirectionLosses",
    "FeatureQueue",
    "HardNegatives",
    "InformationBounds",
    "MaskingConfig",
    "MatchingConfig",
    "MatchingPairs",
    "Regulation",
    "RegulationConfig",
    "Schedule",
    "TokenMasker",
    "WeightHistogram",
    "Zone",
    "ZoneConfig",
    "calibrated",
    "choose_candidates",
    "connect",
    "consistency_loss",
    "contrastive_loss",
    "hardest_negatives",
    "information_bounds",
    "itm_loss",
    "keyed_uniform",
    "matching_pairs",
    "mlm_loss",
    "momentum_targets",
    "normalised_weights",
    "sample_keys",
    "weight_histogram",
    "zones_of",
]
