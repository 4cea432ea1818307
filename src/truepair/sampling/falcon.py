"""FALCON's scheduler: the hardness of each anchor of a search space, drawn from a policy that training rewards.

What the notes on the paper (arXiv 2505.11192) tell is done as they tell it; what they leave open is an option of
:class:`FalconConfig`. No official code was at hand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Beta

from truepair.errors import CheckpointError, ConfigError
from truepair.randomness import isolated_rng
from truepair.relations.similarity import similarities
from truepair.sampling.plan import Indices
from truepair.sampling.ranks import Ranks
from truepair.settings import PartShare, Positive, Rate, SomeShare, Weight, check_settings

_DRAW = 6  # together with seed, epoch and the first sample of a search space: the key of its draws
_EDGE = 1e-6  # quantiles keep this far from 0 and 1, where the density of a Beta may be 0 or endless
_START = 0.5  # what the smaller parameter of a Beta exceeds its floor by, before anything is learned


@dataclass(frozen=True, kw_only=True)
class FalconConfig:
    """Hardness that is learned while the model trains (FALCON).

    Attributes:
        points: Evenly spaced quantiles that a row of similarities is reduced to (m).
        temperature: Of the soft-max over them; similarities are sums of two cosines.
        width: Hidden units of the scheduler.
        per: "anchor" draws a quantile for each sample, "space" one for a whole search space, by the mean of its rows.
        start: Mean of the quantiles before anything is learned.
        floor: Least that both parameters of the Beta distribution may be; at 1 or more it has no peaks at 0 and 1.
        learning_rate: Of the scheduler (Adam).
        baseline: Decay of the running mean of the rewards, which is taken off each reward.
        reward_scale: What a reward above the mean is multiplied by; left out, it is divided by the running deviation.
        entropy: Weight of the entropy of the Beta distributions, which keeps them from narrowing to a point.
        largest_weight: Quantiles are drawn an epoch before they are rewarded; each counts by how much likelier the
            scheduler has made it since, at most this much.
        every: Training steps from one reward to the next; what they cost is told in docs/sampling.md.
        held_out: Validation pairs, at most, by whose ITC loss runs without MLM are rewarded.
    """

    points: Positive = 16
    temperature: Rate = 0.1
    width: Positive = 64
    per: Literal["anchor", "space"] = "anchor"
    start: SomeShare = 0.9
    floor: Rate = 1.0
    learning_rate: Rate = 1e-3
    baseline: PartShare = 0.9
    reward_scale: Rate | None = None
    entropy: Weight = 0.01
    largest_weight: Rate = 2.0
    every: Positive = 1
    held_out: Positive = 128

    def __post_init__(self) -> None:
        check_settings(self, "sampler.hardness.learned")
        if self.per not in ("anchor", "space"):
            raise ConfigError(f"sampler.hardness.learned.per is '{self.per}'; give anchor or space")
        if self.start == 1:
            raise ConfigError("sampler.hardness.learned.start is 1; give a number below 1 (0.99, say): a Beta has no 1")
        if self.points < 2:
            raise ConfigError("sampler.hardness.learned.points is 1; give 2 or more")


def quantile_rows(image: Tensor, text: Tensor, points: int, temperature: float) -> Tensor:
    """How each sample of a search space resembles the others, in a few numbers.

    Args:
        image: Normalised image features [M, D], or [M, Q, D] of a model with queries.
        text: Normalised text features [M, D].
        points: Evenly spaced quantiles (m), from the least similar other sample to the most similar.
        temperature: Of the soft-max.

    Returns:
        The soft-max over the quantiles of each row of image-to-text plus text-to-image cosines without the sample
        itself, ascending, float32 on the CPU [M, m]. Features that are not finite count as zeros.
    """
    image, text = (torch.nan_to_num(part.float(), nan=0.0, posinf=0.0, neginf=0.0) for part in (image, text))
    others = len(image) - 1
    if others == 0:
        return torch.full((1, points), 1 / points)
    cosine = similarities(image, text)
    similarity = (cosine + cosine.T).fill_diagonal_(-math.inf)  # [M, M]
    places = torch.linspace(1, others, points).round().long()  # place 0 is the sample itself
    if similarity.device.type == "cpu":  # NumPy's sort is vectorised
        ascending = torch.from_numpy(np.sort(similarity.numpy(), axis=1))
    else:
        ascending = similarity.sort(dim=1).values
    rows: Tensor = ascending[:, places.to(similarity.device)] / temperature  # [M, m]
    return torch.softmax(rows, dim=1).cpu()


class Scheduler(nn.Module):
    """Maps rows of similarities to Beta distributions: a residual MLP of four layers.

    Args:
        config: Sizes, and where it starts.
    """

    def __init__(self, config: FalconConfig) -> None:
        super().__init__()
        self.points = config.points
        self.floor = config.floor
        self.first = nn.Linear(config.points, config.width)
        self.middle = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(2))
        self.last = nn.Linear(config.width, 2)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(_bias(config))

    def forward(self, rows: Tensor) -> Beta:
        """The distribution of the quantile for each row [n, m]."""
        hidden = self.first(rows * self.points - 1).relu()  # zero for a row without contrast
        for layer in self.middle:
            hidden = hidden + layer(hidden).relu()
        parameters = self.floor + nn.functional.softplus(self.last(hidden))  # [n, 2]
        return Beta(parameters[:, 0], parameters[:, 1], validate_args=False)


def _bias(config: FalconConfig) -> Tensor:
    """The last layer's bias [2], with which the mean of the Beta is ``start``."""
    smaller = config.floor + _START
    odds = config.start / (1 - config.start)
    both = torch.tensor([smaller * max(odds, 1.0), smaller * max(1 / odds, 1.0)], dtype=torch.float64)
    return (both - config.floor).expm1().log().where(both - config.floor < 30, both - config.floor)


class Draws(NamedTuple):
    """What the scheduler decided for samples.

    Attributes:
        rows: What it saw [n, m].
        quantile: What was drawn [n]; NaN where nothing was.
        likelihood: Log-density of that when it was drawn [n].
    """

    rows: Tensor  # [n, m]
    quantile: Tensor  # [n]
    likelihood: Tensor  # [n]

    @classmethod
    def none(cls, count: int, points: int) -> "Draws":
        """Nothing drawn yet for a number of samples."""
        return cls(torch.zeros(count, points), torch.full((count,), math.nan), torch.zeros(count))

    def of(self, samples: Indices) -> "Draws":
        """The decisions for some samples [k] that there are any for."""
        chosen = torch.from_numpy(samples)
        chosen = chosen[~self.quantile[chosen].isnan()]
        return Draws(self.rows[chosen], self.quantile[chosen], self.likelihood[chosen])


def reinforce_loss(policy: Beta, draws: Draws, advantage: float, config: FalconConfig) -> Tensor:
    """What the scheduler minimises: REINFORCE on the quantiles of a batch, and their entropy.

    Its gradient is ``-mean(weight * advantage * grad(log density))`` less that of the weighted entropy, where the
    weight of a sample is the density now over that when it was drawn, limited, and taken as a constant.

    Args:
        policy: The distributions now, for each row of the draws.
        draws: What was drawn for the anchors of the batch [n].
        advantage: The reward of the batch beyond what was to be expected.
        config: Largest weight, and that of the entropy.

    Returns:
        A scalar.
    """
    likelihood: Tensor = policy.log_prob(draws.quantile)  # [n]
    weight = (likelihood - draws.likelihood).detach().exp().clamp(max=config.largest_weight)  # [n]
    entropy: Tensor = policy.entropy().mean()
    return -advantage * (weight * likelihood).mean() - config.entropy * entropy


class Reward:
    """Running mean and variance of the rewards: the plain ones of the first few, then with a decay."""

    def __init__(self, config: FalconConfig) -> None:
        self.config = config
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0

    def advantage(self, reward: float) -> float:
        """How far a reward lies above the mean of those before it, scaled; 0 for the first two. Then count it."""
        above, scale = reward - self.mean, self.config.reward_scale
        if scale is None:
            scale = 1 / math.sqrt(self.variance) if self.variance > 0 else 0.0
        known = self.seen >= 2
        rate = max(1 - self.config.baseline, 1 / (self.seen + 1))
        self.variance = (1 - rate) * (self.variance + rate * above**2)
        self.mean += rate * above
        self.seen += 1
        return above * scale if known else 0.0


class LearnedHardness:
    """A :class:`Hardness` that draws the quantile of each sample, and learns from what training gains.

    Every process of a run holds the same one: :meth:`share` tells all what each has drawn, and :meth:`learn` gives the
    same update everywhere.

    Args:
        config: Its options.
        count: Samples of the data set.
        seed: Of the run.
    """

    def __init__(self, config: FalconConfig, count: int, seed: int) -> None:
        self.config = config
        self.seed = seed
        with isolated_rng(seed, "falcon"):
            self.scheduler = Scheduler(config)
        self.optimizer = torch.optim.Adam(self.scheduler.parameters(), lr=config.learning_rate)
        self.reward = Reward(config)
        self.present = Draws.none(count, config.points)  # of the epoch that is trained
        self.planned = Draws.none(count, config.points)  # of the next
        self._fresh: list[tuple[Tensor, Draws]] = []  # drawn on this rank, and not shared yet

    @torch.no_grad()
    def __call__(self, image: Tensor, text: Tensor, epoch: int, samples: Indices) -> Tensor:
        """Draw the quantiles of some search spaces; see :class:`Hardness`.

        What is drawn depends on seed, epoch and search space alone, not on which others share the call.
        """
        quantiles = torch.empty(samples.shape)
        for place, own in enumerate(samples):
            rows = quantile_rows(image[place], text[place], self.config.points, self.config.temperature)  # [M, m]
            if self.config.per == "space":
                rows = rows.mean(dim=0, keepdim=True)
            policy = self.scheduler(rows)
            rng = np.random.default_rng([self.seed, epoch, _DRAW, int(own[0])])
            drawn = rng.beta(policy.concentration1.double().numpy(), policy.concentration0.double().numpy())
            quantile = torch.from_numpy(drawn).clamp(_EDGE, 1 - _EDGE).float()
            draws = Draws(rows, quantile, policy.log_prob(quantile))
            if self.config.per == "space":
                draws = Draws(*(part.expand(len(own), *part.shape[1:]) for part in draws))
            self._fresh.append((torch.from_numpy(own.copy()), draws))
            quantiles[place] = draws.quantile
        return quantiles.to(image.device)

    def share(self, ranks: Ranks, sizes: Sequence[int]) -> None:
        """Let all ranks know what each has drawn since the last call; all call this together.

        Args:
            ranks: This process among all.
            sizes: Samples that each rank has drawn for.
        """
        empty = torch.empty(0, dtype=torch.int64), Draws.none(0, self.config.points)
        index = torch.cat([empty[0], *(own for own, _ in self._fresh)])
        own = [torch.cat(parts) for parts in zip(empty[1], *(draws for _, draws in self._fresh), strict=True)]
        self._fresh = []
        index, *shared = ranks.gather(sizes, index, *own)
        for table, values in zip(self.planned, shared, strict=True):
            table[index] = values

    def begin_epoch(self) -> None:
        """What was planned is trained from now on."""
        self.present, self.planned = self.planned, Draws.none(len(self.planned.quantile), self.config.points)

    def learn(self, samples: Indices, reward: float) -> None:
        """Take one step on the decisions for the samples of a batch.

        Args:
            samples: The batch over all ranks: dataset indices [B].
            reward: What training on it gained: the fall of a loss. One that is not finite teaches nothing.
        """
        draws = self.present.of(samples)
        if not len(draws.quantile) or not math.isfinite(reward):
            return
        advantage = self.reward.advantage(reward)
        with torch.enable_grad():
            loss = reinforce_loss(self.scheduler(draws.rows), draws, advantage, self.config)
            self.optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(self.scheduler.parameters(), 1.0)
        self.optimizer.step()

    def figures(self) -> dict[str, float]:
        """Mean, first and last tenth of the quantiles of the present epoch; none where none was drawn."""
        drawn = self.present.quantile[~self.present.quantile.isnan()].numpy()
        if not len(drawn):
            return {}
        low, high = np.quantile(drawn, [0.1, 0.9])
        mean = float(drawn.mean(dtype=np.float64))
        return {"hardness_quantile": mean, "hardness_quantile_p10": float(low), "hardness_quantile_p90": float(high)}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that it has learned and drawn, as CPU tensors."""
        state = {f"scheduler.{name}": value for name, value in self.scheduler.state_dict().items()}
        for name, parameter in self.scheduler.named_parameters():
            state |= {f"adam.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        for name, draws in (("present", self.present), ("planned", self.planned)):
            state |= {f"{name}.{key}": value for key, value in draws._asdict().items()}
        state["reward"] = torch.tensor([self.reward.seen, self.reward.mean, self.reward.variance], dtype=torch.float64)
        return {name: value.clone() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            CheckpointError: It is of a scheduler of another shape, or of none.
        """
        kept = {name: value.shape for name, value in self.state_dict().items() if not name.startswith("adam.")}
        if any(name not in state or state[name].shape != shape for name, shape in kept.items()):
            raise CheckpointError(
                "the sampler's state has no learned hardness of this shape; give the old settings or another run folder"
            )
        self.scheduler.load_state_dict({name: state[f"scheduler.{name}"] for name in self.scheduler.state_dict()})
        for name, parameter in self.scheduler.named_parameters():
            prefix = f"adam.{name}."
            moments = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            self.optimizer.state[parameter] = {key: value.clone() for key, value in moments.items()}
        for name in ("present", "planned"):
            setattr(self, name, Draws(*(state[f"{name}.{key}"].clone() for key in Draws._fields)))
        seen, self.reward.mean, self.reward.variance = state["reward"].tolist()
        self.reward.seen = int(seen)
