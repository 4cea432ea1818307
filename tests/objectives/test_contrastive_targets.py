"""Logits of single cells: gathered rows and the matrix product are the same."""

import pytest
import torch

from truepair.objectives.contrastive import pair_scores
from truepair.relations.pairs import PairSet


@pytest.mark.parametrize("count", [0, 1, 50, 51, 800])  # of 40 x 40 cells, with 32 a pair the change is at 50
def test_logits_of_cells_are_those_of_the_matrix(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    anchors, candidates = (torch.randn(40, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor(3.0, dtype=torch.float64)
    cells = torch.randperm(1600, generator=generator)[:count]
    pairs = PairSet(cells // 40, cells % 40, torch.ones(count), (40, 40))
    weights = torch.randn(count, generator=generator, dtype=torch.float64)

    def outcome(scores_only: bool) -> list[torch.Tensor]:
        """Scores and the gradients of both sides and of the scale."""
        inputs = [part.clone().requires_grad_() for part in (anchors, candidates, scale)]
        left, right, factor = inputs
        matrix = left @ right.T * factor
        scores = pair_scores(left, right, factor, pairs) if scores_only else matrix[pairs.rows, pairs.columns]
        (scores @ weights).backward()
        return [scores.detach(), *(part.grad for part in inputs if part.grad is not None)]

    for found, wanted in zip(outcome(True), outcome(False), strict=True):
        torch.testing.assert_close(found, wanted)
