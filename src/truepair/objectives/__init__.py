"""Pure mathematics on tensors: the contrastive losses and their weights, ITM, MLM, and bounds on mutual information."""

from truepair.objectives.bounds import InformationBounds, information_bounds
from truepair.objectives.contrastive import ContrastiveOutput, Direction, DirectionLosses, contrastive_loss
from truepair.objectives.ecm import Connections, connect
from truepair.objectives.itm import (
    HardNegatives,
    MatchingConfig,
    MatchingPairs,
    choose_candidates,
    hardest_negatives,
    itm_loss,
    matching_pairs,
)
from truepair.objectives.mlm import MaskingConfig, TokenMasker, mlm_loss
from truepair.objectives.momentum import FeatureQueue, consistency_loss, momentum_labels, momentum_targets
from truepair.objectives.schedules import Schedule
from truepair.objectives.sigmoid import sigmoid_loss
from truepair.objectives.srcl import (
    CalibrationConfig,
    Regulation,
    RegulationConfig,
    WeightHistogram,
    calibrated,
    normalised_weights,
    weight_histogram,
)
from truepair.randomness import keyed_uniform, sample_keys

__all__ = [
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
    "momentum_labels",
    "momentum_targets",
    "normalised_weights",
    "sample_keys",
    "sigmoid_loss",
    "weight_histogram",
]
