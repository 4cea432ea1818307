"""How hard the negatives of a grouped batch are: the quantile at which the walk takes its next sample."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from truepair.errors import ConfigError
from truepair.sampling.falcon import FalconConfig
from truepair.sampling.plan import Indices
from truepair.settings import Positive, Share, SomeShare, check_settings


class Hardness(Protocol):
    """Chooses the quantile of each step of a walk; a fixed dial, a schedule, or something learned (FALCON)."""

    def __call__(self, image: Tensor, text: Tensor, epoch: int, samples: Indices) -> Tensor | float:
        """Return the quantiles of some search spaces.

        Args:
            image: Normalised image features [S, M, D].
            text: Normalised text features [S, M, D].
            epoch: Epoch that the walk is planned for, counted from 0.
            samples: Which samples they are: indices of the data set (of a stream: places in the window), int64 [S, M].

        Returns:
            From 0 (the least similar candidate) to 1 (the most similar): one number, or [S, M] for each sample.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class HardnessConfig:
    """A fixed quantile, a straight line over epochs, or quantiles that are learned; and how doubtful a pair may be.

    Attributes:
        quantile: Quantile of the first grouped epoch; 1 is GRIT, 0 the easiest negatives.
        final_quantile: Quantile at the end of the line; left out, the quantile stays as it is.
        over_epochs: Epochs from the first grouped one until ``final_quantile`` is reached.
        learned: FALCON's scheduler in place of all that; ``{}`` for its defaults, absent for none.
        below: Pairs that match with at least this probability are kept apart, so that quantiles are taken among the
            others; absent for not asking who matches.
        ledger: Who says so: the folder of verdicts that were mined, or of an earlier run. Those of the run's own judge
            (``ecm``) count besides, from the epoch after on.
    """

    quantile: Share = 1.0
    final_quantile: Share | None = None
    over_epochs: Positive = 10
    learned: FalconConfig | None = None
    below: SomeShare | None = None
    ledger: str | None = None

    def __post_init__(self) -> None:
        check_settings(self, "sampler.hardness")
        if self.learned is not None and (self.quantile != 1 or self.final_quantile is not None):
            raise ConfigError(
                "sampler.hardness.learned draws the quantiles that sampler.hardness.quantile and final_quantile state; "
                "drop one of both (sampler.hardness.learned.start says where it begins)"
            )
        if self.ledger is not None and self.below is None:
            raise ConfigError(
                "sampler.hardness.ledger says how probable matches are, and sampler.hardness.below from where on they "
                "are kept apart; give both"
            )


class HardnessSchedule:
    """The dial of a config: the same quantile for every sample, moving over epochs on a straight line.

    FALCON (arXiv 2505.11192) finds that a high quantile early and a lower one later does best.
    """

    def __init__(self, config: HardnessConfig | None = None) -> None:
        self.config = config or HardnessConfig()

    def __call__(self, image: Tensor, text: Tensor, epoch: int, samples: Indices) -> float:
        """The quantile of an epoch, whatever the samples [S, M] and features; epoch 1 is the first that is grouped."""
        first, final = self.config.quantile, self.config.final_quantile
        if final is None:
            return first
        share = min(max(epoch - 1, 0) / self.config.over_epochs, 1.0)
        return first + (final - first) * share
