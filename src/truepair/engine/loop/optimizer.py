"""AdamW with parameter groups by learning rate and weight decay; the learning rate over a run."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError
from truepair.settings import Natural, PartShare, Rate, SomeShare, Weight, check_settings


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move. Defaults are ALBEF's (learning rate 1e-4, weight decay 0.02, cosine to 1e-5).

    Attributes:
        learning_rate: peak learning rate.
        final_learning_rate: learning rate at the last step, as a share of the peak.
        decay_start: share of the run after which the rate falls; until then it stays at the peak. For objectives that
            join late: under a cosine from the start they would train at a fraction of the peak.
        layer_decay: learning rate of each block of a tower as a share of that of the block above it; 1 for equal
            rates. Of n blocks the last learns at ``layer_decay`` times the tower's rate, the first at
            ``layer_decay ** n``, the embeddings at ``layer_decay ** (n + 1)``; what stands behind the blocks at the
            whole rate (BEiT, Bao et al. 2022; CLIP: 0.6 for ViT-B and 0.65 for ViT-L, Dong et al. 2022).
        weight_decay: decoupled weight decay; never applied to biases, norms and other 0-d or 1-d parameters.
        betas: AdamW's running-average coefficients.
        warmup_steps: steps of linear warm-up from ``warmup_start`` times the peak.
        warmup_share: the warm-up as a share of the run, instead of ``warmup_steps``: it fits a run of any length.
        warmup_start: share of the peak at the first step.
        clip_norm: largest gradient norm, 0 for no clipping.
    """

    learning_rate: Rate = 1e-4
    final_learning_rate: Weight = 0.1
    decay_start: PartShare = 0.0
    layer_decay: SomeShare = 1.0
    weight_decay: Weight = 0.02
    betas: tuple[PartShare, PartShare] = (0.9, 0.999)
    warmup_steps: Natural = 2000
    warmup_share: PartShare | None = None
    warmup_start: Weight = 0.1
    clip_norm: Weight = 0.0

    def __post_init__(self) -> None:
        check_settings(self, "optimizer")

    def peak(self, part: str) -> float:
        """Peak learning rate of a part of the model, as ``TrainingStep.part_of`` names it; here one for all parts.

        A subclass has other rates: one a tower, say.
        """
        return self.learning_rate

    def warmup(self, total_steps: int) -> int:
        """Steps of warm-up in a run of so many."""
        return self.warmup_steps if self.warmup_share is None else round(self.warmup_share * total_steps)

    def warnings(self, total_steps: int) -> list[str]:
        """One line for each thing that makes little sense in a run of so many steps."""
        if self.warmup(total_steps) < total_steps:
            return []
        return [
            f"the learning rate never reaches its peak: optimizer.warmup_steps is {self.warmup_steps:,}, and the run "
            f"has {total_steps:,} steps; set optimizer.warmup_share to 0.1, say"
        ]


def build_optimizer(step: TrainingStep, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, by the parts and layers of the step, decayed or not; scalars apart.

    Scalars stay whole where weights are sharded (``loop.shard``), and torch updates no sharded tensor together with a
    whole one.

    Each group carries ``peak``, the learning rate that :func:`learning_rate_at` scales.

    Raises:
        ConfigError: nothing is trainable.
    """
    groups: dict[tuple[str, int, bool, bool], list[nn.Parameter]] = {}
    by_layer = config.layer_decay != 1.0  # else a group for each layer would only cost time
    for name, parameter in step.named_parameters():
        if parameter.requires_grad:
            above = step.layers_above(name) if by_layer else 0
            key = (step.part_of(name), above, parameter.ndim >= 2, parameter.ndim == 0)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise ConfigError("every parameter is frozen; leave something to train (see the recipe's freeze_ fields)")
    settings = [
        {
            "params": parameters,
            "peak": config.peak(part) * config.layer_decay**above,
            "lr": 0.0,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (part, above, decayed, _), parameters in sorted(groups.items())
    ]
    # One pass over each weight instead of nine: two to eight times as fast on a CPU.
    return torch.optim.AdamW(settings, betas=config.betas, fused=True)


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a step (counted from 0) as a share of the peak.

    Linear warm-up, the peak until ``decay_start`` of the run, then a cosine to ``final_learning_rate``.
    """
    warmup = config.warmup(total_steps)
    if step < warmup:
        return config.warmup_start + (1 - config.warmup_start) * step / warmup
    start = max(warmup, round(config.decay_start * total_steps))
    progress = min(1.0, max(0, step - start) / max(1, total_steps - start))
    floor = config.final_learning_rate
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's learning rate to ``share`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
