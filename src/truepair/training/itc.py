"""The contrastive part of a step (ITC): whatever the relations, the regulation and the momentum model say."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.direction import Direction
from truepair.objectives.distillation import consistency_loss
from truepair.objectives.regulation import Regulation
from truepair.relations.batch import BatchRelations
from truepair.training.momentum import MomentumModel, MomentumView
from truepair.training.regulating import of_rows
from truepair.training.step_view import StepView


@dataclass(frozen=True, kw_only=True)
class ItcConfig:
    """The contrastive loss.

    Attributes:
        weight: Weight in the sum of the losses.
        smoothing: Share of the target that is spread evenly (S-ITC); MAFA: 0.5.
        smoothing_start_epoch: First epoch with smoothing; MAFA: 1.
        key_gradient: Let the gradient through the candidates as well; GRIT-VLP and MAFA do not.
        consistency: Weight of GRIT-VLP's consistency loss; there 0.2.
    """

    weight: float = 1.0
    smoothing: float = 0.0
    smoothing_start_epoch: int = 0
    key_gradient: bool = True
    consistency: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ConfigError(f"objectives.itc.smoothing is {self.smoothing}; give a number from 0 to 1")


def itc_loss(
    view: StepView,
    relations: BatchRelations,
    config: ItcConfig,
    *,
    regulation: Regulation | None = None,
    momentum: tuple[MomentumModel, MomentumView] | None = None,
) -> Tensor:
    """ITC of this rank's anchors against the pairs of all ranks.

    Args:
        view: Features of the batch.
        relations: Who is a match, who is left out or weighs less.
        config: Smoothing, gradient of the keys, consistency.
        regulation: SRCL's weights.
        momentum: Candidates, queue and soft targets of a momentum model, in place of the student's own candidates.

    Returns:
        A scalar; the mean over the ranks is the loss of the whole batch.
    """
    smoothing = config.smoothing if view.moment.epoch >= config.smoothing_start_epoch else 0.0
    if momentum is not None:
        model, seen = momentum
        loss = model.itc_loss(view, seen, relations, smoothing, regulation)
    else:
        loss = _in_batch(view, relations, smoothing, config.key_gradient, regulation)
    if config.consistency:
        consistency = consistency_loss(view.image_features, view.text_features, view.temperature).loss
        loss = loss + config.consistency * consistency
    return loss


def _in_batch(
    view: StepView, relations: BatchRelations, smoothing: float, key_gradient: bool, regulation: Regulation | None
) -> Tensor:
    images, texts = view.image_features, view.text_features
    rows = Direction.of_relations(relations, "i2t", smoothing)
    columns = rows.transposed() if relations.symmetric else Direction.of_relations(relations, "t2i", smoothing)
    if view.alone:
        return contrastive_loss(
            images,
            texts,
            view.temperature,
            rows=rows,
            columns=columns,
            regulation=regulation,
            key_gradient=key_gradient,
        ).loss
    halves = []
    for anchors, candidates, direction, transposed in ((images, texts, rows, False), (texts, images, columns, True)):
        half = contrastive_loss(
            anchors[view.own],
            candidates,
            view.temperature,
            rows=direction.of_rows(view.own.start, view.own.stop),
            regulation=None if regulation is None else of_rows(regulation, view.own, transposed=transposed),
            symmetric=False,
            key_gradient=key_gradient,
        )
        halves.append(half.loss)
    return torch.stack(halves).mean()
