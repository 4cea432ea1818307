"""FALCON's scheduler against plain loops, and what it learns."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import Beta

from tests.sampling.pairs import make_features
from truepair.errors import CheckpointError, ConfigError
from truepair.sampling.batches import SamplerConfig
from truepair.sampling.falcon import (
    Draws,
    FalconConfig,
    LearnedHardness,
    Reward,
    Scheduler,
    quantile_rows,
    reinforce_loss,
)
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.ranks import Ranks
from truepair.sampling.stream import GroupedStream

NUMBERS = [(1.5, 4.0, 0.2), (13.5, 1.5, 0.97), (0.7, 0.6, 0.5), (2.0, 2.0, 0.999999)]


def density(alpha: float, beta: float, quantile: float) -> float:
    """The log-density of a Beta, from its definition."""
    normaliser = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    return normaliser + (alpha - 1) * math.log(quantile) + (beta - 1) * math.log(1 - quantile)


def parameters_by_hand(scheduler: Scheduler, row: Tensor, config: FalconConfig) -> list[float]:
    """Both parameters for a row [m], with loops over plain numbers."""
    weights = {name: value.tolist() for name, value in scheduler.state_dict().items()}

    def layer(name: str, inputs: list[float]) -> list[float]:
        products = [sum(w * x for w, x in zip(line, inputs, strict=True)) for line in weights[f"{name}.weight"]]
        return [product + bias for product, bias in zip(products, weights[f"{name}.bias"], strict=True)]

    hidden = [max(value, 0.0) for value in layer("first", [config.points * value - 1 for value in row.tolist()])]
    for name in ("middle.0", "middle.1"):
        hidden = [old + max(new, 0.0) for old, new in zip(hidden, layer(name, hidden), strict=True)]
    return [config.floor + math.log1p(math.exp(value)) for value in layer("last", hidden)]


def moved(config: FalconConfig, seed: int = 3) -> Scheduler:
    """A scheduler away from its start, so that its last layer looks at the row."""
    torch.manual_seed(seed)
    scheduler = Scheduler(config)
    with torch.no_grad():
        for parameter in scheduler.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return scheduler.double()


def test_rows_are_the_quantiles_of_both_directions_soft_maxed() -> None:
    image, text = make_features(23)
    rows = quantile_rows(image, text, points=5, temperature=0.3)
    for anchor, row in enumerate(rows):
        others = [other for other in range(23) if other != anchor]
        sums = sorted(float(image[anchor] @ text[other] + text[anchor] @ image[other]) for other in others)
        raised = [math.exp(sums[place] / 0.3) for place in (0, 5, 11, 16, 21)]  # a quarter of 21 apart
        assert row.tolist() == pytest.approx([value / sum(raised) for value in raised], abs=1e-6)
        assert row.tolist() == sorted(row.tolist())


def test_rows_of_a_model_with_queries_are_those_of_the_best_query() -> None:
    image, text = make_features(12)
    queries = torch.stack([image, image.flip(1)], dim=1)  # [M, 2, D]
    best = torch.maximum(image @ text.T, image.flip(1) @ text.T)
    once = torch.cat([best, torch.eye(12)], dim=1)  # features whose inner products are those cosines
    twice = torch.cat([torch.eye(12), torch.zeros(12, 12)], dim=1)
    assert torch.allclose(quantile_rows(queries, text, 5, 0.3), quantile_rows(once, twice, 5, 0.3))


def test_rows_of_few_and_of_broken_samples() -> None:
    image, text = make_features(3)
    assert quantile_rows(image[:1], text[:1], 4, 0.1).tolist() == [[0.25] * 4]
    assert quantile_rows(image[:2], text[:2], 4, 0.1).tolist() == [[0.25] * 4] * 2  # one other sample, four times
    image[1] = math.nan
    assert quantile_rows(image, text, 4, 0.1).isfinite().all()


@pytest.mark.parametrize(("alpha", "beta", "quantile"), NUMBERS)
def test_the_density_is_that_of_a_beta(alpha: float, beta: float, quantile: float) -> None:
    policy = Beta(*torch.tensor([[alpha], [beta]], dtype=torch.float64), validate_args=False)
    found = float(policy.log_prob(torch.tensor([quantile], dtype=torch.float64)))
    assert found == pytest.approx(density(alpha, beta, quantile), rel=1e-9)


def test_the_scheduler_is_a_residual_mlp_of_four_layers() -> None:
    config = FalconConfig(points=4, width=6, floor=0.5)
    scheduler = moved(config)
    assert sum(isinstance(module, torch.nn.Linear) for module in scheduler.modules()) == 4
    rows = torch.rand(5, 4).double().softmax(dim=1)
    policy = scheduler(rows)
    for number, row in enumerate(rows):
        expected = parameters_by_hand(scheduler, row, config)
        found = [float(part[number].detach()) for part in (policy.concentration1, policy.concentration0)]
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("start", [0.01, 0.5, 0.9, 0.99, 0.9999])
def test_it_starts_with_the_mean_that_is_asked_for(start: float) -> None:
    policy = Scheduler(FalconConfig(start=start))(torch.rand(3, 16).softmax(dim=1))
    assert policy.mean.tolist() == pytest.approx([start] * 3, rel=1e-4)


def test_its_gradient_is_that_of_reinforce() -> None:
    config = FalconConfig(points=4, width=6, entropy=0.0, largest_weight=1.5)
    rows = torch.rand(6, 4).double().softmax(dim=1)
    quantile = torch.linspace(0.1, 0.95, 6).double()
    old = Beta(torch.full((6,), 3.0), torch.full((6,), 1.4))  # of the scheduler that drew
    draws = Draws(rows, quantile, old.log_prob(quantile.float()).double())
    scheduler, textbook = moved(config), moved(config)
    reinforce_loss(scheduler(rows), draws, 0.7, config).backward()

    # Textbook: the score function of a Beta from digammas, a weight for each decision, and the chain rule per sample.
    total = [torch.zeros_like(parameter) for parameter in textbook.parameters()]
    for row, q, was in zip(rows, quantile, draws.likelihood.tolist(), strict=True):
        policy = textbook(row[None])
        alpha, beta = policy.concentration1, policy.concentration0
        both = torch.digamma(alpha + beta)
        score = [q.log() - torch.digamma(alpha) + both, (1 - q).log() - torch.digamma(beta) + both]
        weight = min(math.exp(density(alpha.item(), beta.item(), float(q)) - was), 1.5)
        outward = [-0.7 / 6 * weight * part.detach() for part in score]
        for sum_, gradient in zip(
            total, torch.autograd.grad([alpha, beta], list(textbook.parameters()), outward), strict=True
        ):
            sum_ += gradient
    for parameter, expected in zip(scheduler.parameters(), total, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10)


def test_the_entropy_widens_it() -> None:
    config = FalconConfig(points=4, width=6, entropy=0.3)
    scheduler = moved(config)
    draws = Draws(torch.rand(6, 4).double().softmax(dim=1), torch.full((6,), 0.4).double(), torch.zeros(6).double())
    loss = reinforce_loss(scheduler(draws.rows), draws, 0.0, config)
    policy = scheduler(draws.rows)
    grid = (torch.arange(100_000).double() + 0.5) / 100_000
    entropies = []
    for alpha, beta in zip(policy.concentration1.detach(), policy.concentration0.detach(), strict=True):
        logs = Beta(alpha, beta).log_prob(grid)
        entropies.append(float(-(logs.exp() * logs).mean()))  # by the mid-point rule
    assert loss.item() == pytest.approx(-0.3 * sum(entropies) / 6, abs=1e-4)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_a_reward_counts_by_how_far_it_lies_above_those_before(scale: float | None) -> None:
    rewards = [0.3, 0.1, 0.4, 0.35, -0.2, 0.9, 0.1, 0.2, 0.3, 0.5, 0.45, 0.1, 0.7]
    tracker = Reward(FalconConfig(baseline=0.8, reward_scale=scale))
    mean, variance = 0.0, 0.0
    for number, reward in enumerate(rewards):
        divided = (reward - mean) * (scale if scale is not None else (1 / math.sqrt(variance) if variance else 0.0))
        assert tracker.advantage(reward) == pytest.approx(divided if number >= 2 else 0.0)
        if number < 5:  # the plain mean, as long as that has the shorter memory
            seen = rewards[: number + 1]
            mean, variance = float(np.mean(seen)), float(np.var(seen))
        else:
            variance = 0.8 * (variance + 0.2 * (reward - mean) ** 2)
            mean = 0.8 * mean + 0.2 * reward
        assert (tracker.mean, tracker.variance) == pytest.approx((mean, variance))


def taught(wanted: float, epochs: int = 12) -> float:
    """Mean quantile drawn after training that gains most where the quantiles of a batch come close to one."""
    config = FalconConfig(learning_rate=0.03, start=0.6)
    hardness = LearnedHardness(config, 96, seed=0)
    image, text = make_features(96)
    samples = np.arange(96).reshape(4, 24)
    for epoch in range(epochs):
        hardness(image.view(4, 24, 8), text.view(4, 24, 8), epoch, samples)
        hardness.share(Ranks(), [96])
        hardness.begin_epoch()
        for batch in np.random.default_rng(epoch).permutation(samples.reshape(-1)).reshape(24, 4):
            drawn = hardness.present.of(batch).quantile
            hardness.learn(batch, -float((drawn - wanted).abs().mean()))
    return hardness.figures()["hardness_quantile"]


@pytest.mark.parametrize("wanted", [0.15, 0.95])
def test_it_learns_the_quantiles_that_pay(wanted: float) -> None:
    assert taught(wanted) == pytest.approx(wanted, abs=0.12)


def test_quantiles_of_a_space_are_one() -> None:
    hardness = LearnedHardness(FalconConfig(per="space"), 20, seed=0)
    image, text = (part.view(2, 10, 8) for part in make_features(20))
    drawn = hardness(image, text, 1, np.arange(20).reshape(2, 10))
    assert (drawn == drawn[:, :1]).all() and drawn[0, 0] != drawn[1, 0]


def test_what_is_drawn_hangs_on_the_space_alone() -> None:
    image, text = (part.view(3, 8, 8) for part in make_features(24))
    samples = np.random.default_rng(0).permutation(24).reshape(3, 8)
    together = LearnedHardness(FalconConfig(), 24, seed=5)(image, text, 2, samples)
    alone = LearnedHardness(FalconConfig(), 24, seed=5)(image[1:2], text[1:2], 2, samples[1:2])
    assert torch.equal(together[1], alone[0])
    other = LearnedHardness(FalconConfig(), 24, seed=6)(image, text, 2, samples)
    assert not torch.equal(together, other)
    assert ((together > 0) & (together < 1)).all()


def make_sampler(**learned: Any) -> GroupedBatchSampler:
    hardness = HardnessConfig(learned=FalconConfig(**{"learning_rate": 0.05, **learned}))
    config = GroupedConfig(queue_size=24, search_space=12, hardness=hardness)
    return GroupedBatchSampler(50, 6, config=config, seed=1)


def trained(sampler: GroupedBatchSampler, steps: int) -> list[list[int]]:
    """Batches of some steps, each with a reward that depends on it."""
    image, text = make_features(50)
    seen = []
    for _ in range(steps):
        batch = next(iter(sampler))
        index = torch.tensor(batch)
        sampler.learn(math.sin(sum(batch)))
        sampler.collect(index, image[index], text[index])
        seen.append(batch)
    return seen


@pytest.mark.parametrize("stop", [3, 8, 13, 20])  # of 8 steps an epoch
def test_a_sampler_goes_on_bit_for_bit(stop: int, tmp_path: Path) -> None:
    whole = make_sampler()
    rest = trained(whole, 30)[stop:]
    broken = make_sampler()
    trained(broken, stop)
    save_file(broken.state_dict(), tmp_path / "state.safetensors")
    torch.manual_seed(99)  # no draw hangs on the global generator
    again = make_sampler()
    again.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert trained(again, 30 - stop) == rest
    ends = [sampler.state_dict() for sampler in (whole, again)]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert np.array_equal(value.numpy(), ends[1][name].numpy(), equal_nan=value.is_floating_point()), name


def test_rewards_change_what_is_drawn_later() -> None:
    unrewarded = make_sampler(entropy=0.0)
    image, text = make_features(50)
    batches = []
    for _ in range(24):
        batch = next(iter(unrewarded))
        unrewarded.collect(torch.tensor(batch), image[batch], text[batch])
        batches.append(batch)
    rewarded = trained(make_sampler(entropy=0.0), 24)
    assert rewarded[:16] == batches[:16]  # the first grouped epoch is drawn before any reward
    assert rewarded[16:] != batches[16:]


def test_a_reward_that_is_not_finite_teaches_nothing() -> None:
    sampler = make_sampler()
    trained(sampler, 10)
    assert isinstance(sampler.hardness, LearnedHardness)
    before = sampler.hardness.state_dict()
    sampler.learn(math.nan)
    after = sampler.hardness.state_dict()
    assert all(np.array_equal(before[name].numpy(), after[name].numpy(), equal_nan=True) for name in before)


def test_a_state_of_another_hardness_is_refused() -> None:
    plain = GroupedBatchSampler(50, 6, config=GroupedConfig(queue_size=24, search_space=12), seed=1)
    with pytest.raises(CheckpointError, match="no learned hardness of this shape"):
        make_sampler().load_state_dict(plain.state_dict())
    with pytest.raises(CheckpointError, match="give the old settings"):
        make_sampler(width=5).load_state_dict(make_sampler().state_dict())


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hardness\.learned draws the quantiles .* drop one of both"):
        HardnessConfig(quantile=0.9, learned=FalconConfig())
    with pytest.raises(ConfigError, match=r"is for grouped batches; set sampler\.kind to grit"):
        SamplerConfig(hardness=HardnessConfig(learned=FalconConfig()))
    with pytest.raises(ConfigError, match=r"learned\.start is 1; give a number below 1"):
        FalconConfig(start=1.0)
    with pytest.raises(ConfigError, match=r"learned\.points is 1; give 2 or more"):
        FalconConfig(points=1)
    with pytest.raises(ConfigError, match=r"learned\.per is 'batch'; give anchor or space"):
        FalconConfig(per="batch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"hardness\.learned\.floor is 0; give a number above 0"):
        FalconConfig(floor=0)
    config = GroupedConfig(hardness=HardnessConfig(learned=FalconConfig()))
    with pytest.raises(ConfigError, match="a stream says nothing back"):
        GroupedStream([], lambda samples: (torch.empty(0), torch.empty(0)), 4, config=config)
