"""The sigmoid loss over ranks is that of open_clip, on each rank and in the mean, with its gradients."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.loss import SigLipLoss
from torch import Tensor

from tests.sampling.gloo import GlooPool
from truepair.engine.distributed.gathering import gather
from truepair.objectives.contrastive import Direction
from truepair.objectives.sigmoid import sigmoid_loss
from truepair.sampling.ranks import Ranks

SIZE = 8


class Found(NamedTuple):
    """A rank's loss, and its gradients of images, texts, logit scale and bias."""

    loss: float
    gradients: list[NDArray[np.float64]]


def inputs(rank: int, world: int) -> list[Tensor]:
    """This rank's images and texts, the logit scale and the bias."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(SIZE, 5, generator=generator).double(), dim=1) for _ in range(2))
    own = slice(rank * SIZE // world, (rank + 1) * SIZE // world)
    values = [images[own], texts[own], torch.tensor(10.0).double(), torch.tensor(-3.0).double()]
    return [value.clone().requires_grad_() for value in values]


def by_open_clip(_: object) -> Found:
    here = Ranks.current()
    tensors = inputs(here.rank, here.count)
    loss = SigLipLoss(rank=here.rank, world_size=here.count)(*tensors)
    return Found(float(loss.detach()), [x.numpy() for x in torch.autograd.grad(loss, tensors)])


def by_queries(implementation: str) -> Found:
    """This rank's images over the texts of all."""
    here = Ranks.current()
    tensors = inputs(here.rank, here.count)
    images, texts, scale, bias = tensors
    loss = sigmoid_loss(
        images,
        gather(texts),
        1 / scale,
        bias,
        rows=Direction(offset=here.rank * len(images)),
        symmetric=False,
        implementation=implementation,
    )
    return Found(float(loss.detach()), [x.numpy() for x in torch.autograd.grad(loss, tensors)])


def by_both(_: object) -> Found:
    """The mean of this rank's images over all texts and its texts over all images, as a training step has it."""
    here = Ranks.current()
    tensors = inputs(here.rank, here.count)
    images, texts, scale, bias = tensors
    rows = Direction(offset=here.rank * len(images))
    halves = [
        sigmoid_loss(anchors, gather(others), 1 / scale, bias, rows=rows, symmetric=False)
        for anchors, others in ((images, texts), (texts, images))
    ]
    loss = (halves[0] + halves[1]) / 2
    return Found(float(loss.detach()), [x.numpy() for x in torch.autograd.grad(loss, tensors)])


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> GlooPool:
    made = GlooPool(tmp_path_factory.mktemp("gloo"))
    yield made  # type: ignore[misc]
    made.close()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_each_rank_has_the_loss_of_open_clip(pool: GlooPool, world: int, implementation: str) -> None:
    wanted, found = pool.run(by_open_clip, None, world), pool.run(by_queries, implementation, world)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-12)
        for one, other in zip(mine.gradients, theirs.gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_mean_over_ranks_is_the_loss_of_the_whole_batch(pool: GlooPool, world: int) -> None:
    (alone,) = pool.run(by_open_clip, None, 1)
    ranks = pool.run(by_both, None, world)
    assert sum(rank.loss for rank in ranks) / world == pytest.approx(alone.loss, rel=1e-12)
    for place in (0, 1):  # a feature's gradient stands on its own rank, of the sum over ranks
        features = np.concatenate([rank.gradients[place] for rank in ranks]) / world
        np.testing.assert_allclose(features, alone.gradients[place], rtol=1e-10, atol=1e-13)
    for place in (2, 3):
        mean = sum(rank.gradients[place] for rank in ranks) / world
        np.testing.assert_allclose(mean, alone.gradients[place], rtol=1e-10)
