"""SRCL in training: the seed model's similarity, mixed with the student's, weighs the negatives."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from truepair.devices import sent
from truepair.errors import ConfigError
from truepair.methods.encode import EncodedBatch
from truepair.methods.frozen import FrozenModel
from truepair.objectives.schedules import Schedule
from truepair.objectives.srcl import (
    CalibrationConfig,
    Regulation,
    RegulationConfig,
    calibrated,
    normalised_weights,
    weight_histogram,
)
from truepair.randomness import keyed_uniform, sample_keys
from truepair.relations.similarity import as_products


@dataclass(frozen=True, kw_only=True)
class SrclConfig:
    """Similarity-regulated contrastive learning (SRCL, section 3.2).

    Attributes:
        weights: Form and sharpness of the weights.
        alpha: Weight of the seed model over training; 0 in fine-tuning, where the model's own similarity is used.
        seed_model: Folder or name of the frozen seed model; needed while alpha is above 0.
        shuffle: A control: the weights of an anchor's negatives are shuffled among them, in each batch anew.
            The seed model alone must weigh them (alpha 1).
        calibrate: Set delta or tau_w at the start of each epoch so that the weights reach a statistic; absent: take
            them as they are.
    """

    weights: RegulationConfig = field(default_factory=RegulationConfig)
    alpha: float | Schedule = field(default_factory=lambda: Schedule("linear", 1.0, 0.0))
    seed_model: str | None = None
    shuffle: bool = False
    calibrate: CalibrationConfig | None = None

    def __post_init__(self) -> None:
        largest = max(self.alpha.start, self.alpha.end) if isinstance(self.alpha, Schedule) else self.alpha
        if largest > 0 and self.seed_model is None:
            raise ConfigError("srcl.alpha above 0 needs srcl.seed_model, a trained model; train one, or set alpha to 0")
        if self.shuffle and self.alpha != 1:
            raise ConfigError("srcl.shuffle deals out the weights of the seed model; set srcl.alpha to 1, or drop it")
        if self.calibrate is not None and self.weights.form == "literal":
            raise ConfigError("srcl.weights.form 'literal' has nothing to calibrate; use 'softmax' or 'tempered'")


class SrclWeights:
    """Gives each batch its regulation.

    Args:
        config: Form, alpha, calibration.
        seed: The seed model; None when alpha stays 0.
    """

    def __init__(self, config: SrclConfig, seed: FrozenModel | None) -> None:
        self.config = config
        self.seed = seed
        self.weights = config.weights

    def regulation(self, encoded: EncodedBatch) -> Regulation:
        """Weights of the negatives of a batch; features of the seed model are computed while alpha is above 0."""
        schedule = self.config.alpha
        alpha = schedule.at(encoded.info.progress) if isinstance(schedule, Schedule) else schedule
        images = texts = None
        if alpha > 0 and self.seed is not None:
            images, texts = self.seed.features(encoded)
            if self.config.shuffle:
                lots = keyed_uniform(sample_keys(encoded.batch.image_id, encoded.info.step), 1)[:, 0]  # [B]
                texts = texts[sent(lots.argsort(), texts.device)]
            images, texts = as_products(images, texts)
        regulation = Regulation(self.weights, alpha, images, texts)
        if self.config.calibrate is not None and encoded.info.step % encoded.info.steps_per_epoch == 0:
            similarity = encoded.similarity  # [B, B]
            with torch.autocast(similarity.device.type, enabled=False):
                regulation = calibrated(regulation, similarity, _others(similarity), self.config.calibrate)
            self.weights = regulation.config
        return regulation

    def state(self) -> dict[str, float]:
        """What was calibrated, for a checkpoint."""
        return {"delta": self.weights.delta, "tau_w": self.weights.tau_w}

    def load_state(self, state: dict[str, float]) -> None:
        """Take up what :meth:`state` gave."""
        self.weights = replace(self.weights, delta=state["delta"], tau_w=state["tau_w"])


def weight_figures(
    regulation: Regulation, encoded: EncodedBatch, hidden: Tensor | None = None, anchors: slice = slice(None)
) -> tuple[dict[str, Tensor], Tensor]:
    """How the weights of a batch are spread, images as anchors.

    Args:
        regulation: The weights.
        encoded: The batch.
        hidden: Which of the anchors' cells are false negatives, bool [A, B]; None where nobody knows.
        anchors: Which images.

    Returns:
        Scalars for the log: alpha, shares of the weights at or below 0.2 and below 0.7, and the mean weight of false
        negatives, if there are any; and the histogram, counts of 20
        bins from 0 to 2 and one above, int64 [21].
    """
    similarity = encoded.similarity_of(anchors, slice(None))  # [A, B]
    own = torch.arange(encoded.size, device=encoded.device)  # [B]
    negatives = own[anchors, None] != own
    weights = normalised_weights(regulation.log_weights(anchors, slice(None), similarity), negatives)
    histogram = weight_histogram(weights, negatives)
    figures = {
        "srcl_alpha": regulation.alpha,
        "srcl_below_0.2": histogram.share_below_0_2,
        "srcl_below_0.7": histogram.share_below_0_7,
    }
    if hidden is not None and hidden.any():
        figures["srcl_false_negatives"] = float(weights[sent(hidden, weights.device)].mean())
    return {name: torch.tensor(value) for name, value in figures.items()}, histogram.counts


def of_rows(regulation: Regulation, rows: slice, *, transposed: bool) -> Regulation:
    """The regulation of some anchors against all candidates; texts are the anchors if transposed."""
    queries, keys = regulation.seed_queries, regulation.seed_keys
    if transposed:
        queries, keys = keys, queries
    return replace(regulation, seed_queries=None if queries is None else queries[rows], seed_keys=keys)


def _others(matrix: Tensor) -> Tensor:
    """Everything but the own pairs, bool [B, B]."""
    return ~torch.eye(*matrix.shape, dtype=torch.bool, device=matrix.device)
