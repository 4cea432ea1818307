import torch
import torch.nn.functional as F

from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.momentum import consistency_loss, momentum_targets
from truepair.relations.pairs import PairSet


def features(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_albef_loss_with_queue_and_distillation() -> None:
    """ALBEF's formula: soft targets over momentum features of batch and queue, gradient to the query only."""
    images, momentum_images = features(5, 0).requires_grad_(), features(5, 1)
    candidates = torch.cat([features(5, 2), features(11, 3)])  # momentum texts, then the queue
    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    positives = PairSet.diagonal(5, 16)
    soft = momentum_targets(momentum_images, candidates, temperature, positives, alpha=0.4)
    assert not soft.requires_grad
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(5, dtype=torch.float64))
    loss = contrastive_loss(images, candidates, temperature, rows=Direction(soft=soft), symmetric=False).loss
    hard = torch.eye(5, 16, dtype=torch.float64)
    targets = 0.4 * (momentum_images @ candidates.T / 0.07).softmax(dim=1) + 0.6 * hard
    wanted = -(F.log_softmax(images @ candidates.T / temperature, dim=1) * targets).sum(dim=1).mean()
    torch.testing.assert_close(loss, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(loss, [images, temperature]),
        torch.autograd.grad(wanted, [images, temperature]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_consistency_draws_each_direction_to_the_other() -> None:
    images, texts = features(8, 4).requires_grad_(), features(8, 5).requires_grad_()
    i2t = images @ texts.detach().T / 0.07
    t2i = texts @ images.detach().T / 0.07
    wanted = (F.cross_entropy(i2t, t2i.detach().softmax(dim=1)) + F.cross_entropy(t2i, i2t.detach().softmax(dim=1))) / 2
    found = consistency_loss(images, texts, 0.07).loss
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, [images, texts]), torch.autograd.grad(wanted, [images, texts]), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_features() -> None:
    images, texts = features(8, 6).bfloat16(), features(8, 7).bfloat16()
    assert momentum_targets(images, texts, 1e-3, PairSet.diagonal(8, 8), 0.4).dtype == torch.float32
    assert consistency_loss(images, texts, 1e-3).loss.isfinite()
