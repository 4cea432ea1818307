"""From a config to the judge it names."""

from collections.abc import Callable

import torch

from truepair.errors import ConfigError
from truepair.mining.albef_discriminator import open_albef
from truepair.mining.blip_discriminator import open_blip
from truepair.mining.discriminator import Discriminator
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.dual_discriminator import open_dual
from truepair.mining.evidence_discriminator import open_evidence
from truepair.mining.memorised import MemorisedDiscriminator
from truepair.mining.run_inputs import RunInputs
from truepair.mining.verdict_memory import VerdictMemory
from truepair.spelling import nearest

DISCRIMINATORS: dict[str, Callable[[DiscriminatorConfig, RunInputs, torch.device | str], Discriminator]] = {
    "albef": open_albef,
    "blip": open_blip,
    "dual": open_dual,
    "evidence": open_evidence,
}
"""What opens a judge of each kind."""


def open_discriminator(
    config: DiscriminatorConfig, run: RunInputs, device: torch.device | str = "cpu"
) -> Discriminator | MemorisedDiscriminator:
    """Open the judge of a run, with a memory where one is wanted.

    Args:
        config: which judge, and how it is asked.
        run: what the run has that the judge may use.
        device: where it runs.

    Raises:
        ConfigError: an unknown kind, or a judge that cannot read what the run has.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if config.kind not in DISCRIMINATORS:
        near = nearest(config.kind, DISCRIMINATORS)
        raise ConfigError(f"ecm.discriminator.kind is '{config.kind}'{near}; give {', '.join(DISCRIMINATORS)}")
    discriminator = DISCRIMINATORS[config.kind](config, run, device)
    if discriminator.repeatable if config.memory is None else config.memory:
        memory = VerdictMemory(discriminator.fingerprint, limit=config.memory_limit)
        return MemorisedDiscriminator(discriminator, memory)
    return discriminator
