"""Made-up features and obvious references for the tests of this room."""

import math

import torch
from torch import Tensor

from truepair.sampling.grouped import GroupedBatchSampler


def make_features(count: int, *, dimension: int = 8, clusters: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normalised image and text features [count, dimension] of samples that fall into clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, dimension, generator=generator)
    shown = centres[torch.randint(clusters, (count,), generator=generator)]
    sides = [shown + torch.randn(count, dimension, generator=generator) for _ in range(2)]
    return torch.nn.functional.normalize(sides[0], dim=1), torch.nn.functional.normalize(sides[1], dim=1)


def reward_of(sampler: GroupedBatchSampler) -> float:
    """What a step is said to have gained, from its samples; the same on all ranks."""
    return math.sin(int(sampler.step_samples(sampler.step)[:3].sum()))


def suspects_of(sampler: GroupedBatchSampler) -> Tensor:
    """Pairs that a step is said to have found, int64 [P, 2]; the same on all ranks."""
    samples = torch.from_numpy(sampler.step_samples(sampler.step))
    return torch.stack([samples[:-1], samples[1:]], dim=1)[samples[:-1] % 7 == 0]


def run_epochs(
    sampler: GroupedBatchSampler, image: Tensor, text: Tensor, epochs: int, *, suspecting: bool = False
) -> list[list[list[int]]]:
    """Train on nothing for some epochs; returns the batches of each."""
    seen = []
    for _ in range(epochs):
        batches = []
        for batch in sampler:
            batches.append(batch)
            index = torch.tensor(batch)
            sampler.learn(reward_of(sampler))
            if suspecting:
                sampler.suspect(suspects_of(sampler))
            sampler.collect(index, image[index], text[index])
        seen.append(batches)
    return seen
