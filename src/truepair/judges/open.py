"""From a config to the judge it names: the registry of judges."""

from collections.abc import Callable

import torch

from truepair.errors import ConfigError, nearest
from truepair.judges.base import Judge, JudgeConfig, JudgeInputs
from truepair.judges.dual import open_dual
from truepair.judges.evidence import open_evidence
from truepair.judges.itm import open_albef, open_blip, open_blip2
from truepair.judges.memory import MemorisedJudge, VerdictMemory
from truepair.judges.recorded import open_recorded
from truepair.judges.vlm import open_vlm

JUDGES: dict[str, Callable[[JudgeConfig, JudgeInputs, torch.device | str], Judge]] = {
    "albef": open_albef,
    "blip": open_blip,
    "blip2": open_blip2,
    "dual": open_dual,
    "evidence": open_evidence,
    "recorded": open_recorded,
    "vlm": open_vlm,
}
"""What opens a judge of each kind; a judge of one's own needs its file, and its line here."""


def open_judge(config: JudgeConfig, run: JudgeInputs, device: torch.device | str = "cpu") -> Judge | MemorisedJudge:
    """Open the judge of a run, with a memory where one is wanted.

    Args:
        config: which judge, and how it is asked.
        run: what the run has that the judge may use.
        device: where it runs.

    Raises:
        ConfigError: an unknown kind, or a judge that cannot read what the run has.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if config.kind not in JUDGES:
        near = nearest(config.kind, JUDGES)
        raise ConfigError(f"ecm.judge.kind is '{config.kind}'{near}; give {', '.join(JUDGES)}")
    judge = JUDGES[config.kind](config, run, device)
    if judge.repeatable if config.memory is None else config.memory:
        memory = VerdictMemory(judge.fingerprint, limit=config.memory_limit)
        return MemorisedJudge(judge, memory)
    return judge
