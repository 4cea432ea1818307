"""What a step is composed of."""

from dataclasses import dataclass, field

from truepair.mining.conversion_truth import ConversionTruth
from truepair.mining.pair_truth import PairTruth
from truepair.relations.ledger import Ledger
from truepair.training.connecting import ConnectionMiner
from truepair.training.epoch_counts import EpochCounts
from truepair.training.momentum import MomentumModel
from truepair.training.reference import ReferenceModel
from truepair.training.regulating import Regulator
from truepair.training.relating import Relator


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What a step is composed of beside the student; the parts that a recipe does not ask for are None.

    Attributes:
        relator: Applies the rules on who is a match.
        miner: Connection mining by a discriminator.
        regulator: SRCL's weights.
        momentum: ALBEF's momentum model.
        guide: The dual encoder that the detector "guide" asks.
        ledger: Keeps the verdicts.
        truth: What is known about undeclared pairs, for figures only.
        found: Counts how many of the matches that the miner or a rule finds are right, where the truth is known.
        counts: What is counted over an epoch.
    """

    relator: Relator
    miner: ConnectionMiner | None = None
    regulator: Regulator | None = None
    momentum: MomentumModel | None = None
    guide: ReferenceModel | None = None
    ledger: Ledger | None = None
    truth: PairTruth | None = None
    found: ConversionTruth | None = None
    counts: EpochCounts = field(default_factory=EpochCounts)
