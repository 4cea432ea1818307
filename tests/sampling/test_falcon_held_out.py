"""Rewarded by ITC of held-out pairs, hardness does not sink to the easiest negatives: two towers on made features."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from truepair.sampling.falcon import FalconConfig, LearnedHardness
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig

COUNT, HELD_OUT, WIDTH, CLUSTERS = 512, 128, 16, 32


def quantiles(start: float, seed: int, epochs: int = 12) -> list[float]:
    """The mean quantile of each grouped epoch while linear towers learn pairs that fall into clusters."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = COUNT + HELD_OUT
    shown = 2 * draw(CLUSTERS, WIDTH)[torch.arange(rows) % CLUSTERS] + draw(rows, WIDTH)
    inputs = [shown @ draw(WIDTH, WIDTH) + 0.5 * draw(rows, WIDTH) for _ in range(2)]  # what each tower sees
    towers = [(0.25 * draw(WIDTH, 12)).requires_grad_() for _ in range(2)]
    optimizer = torch.optim.Adam(towers, lr=3e-3)

    def features(index: Tensor) -> list[Tensor]:
        return [normalize(side[index] @ tower, dim=1) for side, tower in zip(inputs, towers, strict=True)]

    def itc(index: Tensor) -> Tensor:
        image, text = features(index)
        logits, target = 10 * image @ text.T, torch.arange(len(index))
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    hardness = HardnessConfig(learned=FalconConfig(start=start))
    config = GroupedConfig(queue_size=256, search_space=128, hardness=hardness)
    sampler = GroupedBatchSampler(COUNT, 16, config=config, seed=seed)
    held_out = torch.arange(COUNT, rows)
    means = []
    for _ in range(epochs):
        for batch in sampler:
            index = torch.tensor(batch)
            before = itc(held_out).item()
            optimizer.zero_grad()
            itc(index).backward()
            optimizer.step()
            sampler.learn(before - itc(held_out).item())
            sampler.collect(index, *features(index))
        assert isinstance(sampler.hardness, LearnedHardness)
        means.append(sampler.hardness.figures()["hardness_quantile"])
    return means


@pytest.mark.parametrize(("start", "seed"), [(0.5, 3), (0.5, 4), (0.9, 0)])
def test_it_stays_away_from_the_easiest(start: float, seed: int) -> None:
    means = quantiles(start, seed)
    assert means[0] == pytest.approx(start, abs=0.05)
    assert min(means) > 0.6 * start
