"""Which contrastive loss a step has: a softmax over the candidates, or a sigmoid of each cell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.momentum import momentum_labels, momentum_targets
from truepair.objectives.sigmoid import sigmoid_loss
from truepair.objectives.srcl import Regulation
from truepair.relations.pairs import PairSet
from truepair.relations.similarity import as_products


@dataclass(frozen=True)
class Contrast:
    """The contrastive loss of a step, with what it learns beside the features.

    Attributes:
        temperature: What similarities are divided by, a scalar with gradient.
        bias: What the sigmoid loss adds to the logits, a scalar with gradient; None: the loss is a softmax.
    """

    temperature: Tensor
    bias: Tensor | None = None

    def loss(
        self,
        anchors: Tensor,
        candidates: Tensor,
        rows: Direction,
        columns: Direction | None = None,
        *,
        regulation: Regulation | None = None,
        symmetric: bool = False,
        key_gradient: bool = True,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            anchors: Features [A, E]; of images with queries [A, Q, E].
            candidates: Features [C, E], likewise.
            rows: Targets, or labels, and weights as the anchors see them.
            columns: The same as the candidates see them; ``rows`` transposed when absent.
            regulation: SRCL's weights.
            symmetric: Whether the candidates are anchors too; only for features without queries.
            key_gradient: Whether an anchor's candidates get a gradient too.
        """
        if anchors.dim() == 3 or candidates.dim() == 3:
            assert not symmetric, "with queries, each direction has similarities of its own"
            anchors, candidates = as_products(anchors, candidates if key_gradient else candidates.detach())
        if self.bias is not None:
            return sigmoid_loss(
                anchors,
                candidates,
                self.temperature,
                self.bias,
                rows=rows,
                columns=columns,
                regulation=regulation,
                symmetric=symmetric,
                key_gradient=key_gradient,
            )
        return contrastive_loss(
            anchors,
            candidates,
            self.temperature,
            rows=rows,
            columns=columns,
            regulation=regulation,
            symmetric=symmetric,
            key_gradient=key_gradient,
        ).loss

    def soft(self, anchors: Tensor, candidates: Tensor, positives: PairSet, alpha: float) -> Tensor:
        """What a momentum model's features make of the positives: target rows, or labels [A, C].

        Args:
            anchors: Momentum features [A, E].
            candidates: Momentum features [C, E].
            positives: Positives of the anchors [A, C].
            alpha: Weight of the momentum model's word.
        """
        temperature = self.temperature.detach()
        with torch.autocast(anchors.device.type, enabled=False):
            if self.bias is None:
                return momentum_targets(anchors, candidates, temperature, positives, alpha)
            return momentum_labels(anchors, candidates, temperature, self.bias.detach(), positives, alpha)
