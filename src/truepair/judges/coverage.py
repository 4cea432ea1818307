"""Whether a judge recognises known pairs: one that passes almost none would convert nothing, and say so nowhere."""

from dataclasses import dataclass

import torch

from truepair.data.pairs import PairCollator, PairDataset
from truepair.errors import ConfigError
from truepair.judges.base import Judge


def check_coverage(
    judge: Judge,
    dataset: PairDataset,
    collator: PairCollator,
    *,
    high: float,
    least: float = 0.2,
    sample: int = 512,
    batch_size: int = 64,
    seed: int = 0,
) -> "Coverage":
    """Ask a judge about own pairs of the training set, and count how many reach the upper threshold.

    A judge of kind "evidence" compares a candidate with the own pairs and has nothing to say about these themselves.

    Args:
        judge: the judge.
        dataset: the pairs, as the run visits them.
        collator: the run's.
        high: upper threshold, ``ZoneConfig.high``.
        least: share of known pairs that should reach it.
        sample: how many pairs to ask about.
        batch_size: pairs read at once.
        seed: of the sample.

    Raises:
        ConfigError: ``sample`` is below 1.
    """
    if sample < 1:
        raise ConfigError(f"a coverage check of {sample} pairs says nothing; give at least 1")
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:sample]
    scores = []
    for part in rows.split(batch_size):
        batch = collator(dataset.__getitems__(part.tolist()))
        own = torch.arange(len(part))
        scores.append(judge.score(batch, own, own).cpu())
    known = torch.cat(scores)
    passed = int((known >= high).sum())
    return Coverage(judge.name, high, len(known), passed, float(known.median()), least)


@dataclass(frozen=True)
class Coverage:
    """How many known pairs a judge takes for matches.

    Attributes:
        judge: its name.
        high: the threshold they have to reach.
        asked: number of known pairs asked about.
        passed: how many reached it.
        median: median probability of the known pairs.
        least: smallest share that raises no warning.
    """

    judge: str
    high: float
    asked: int
    passed: int
    median: float
    least: float

    @property
    def share(self) -> float:
        """Share of the known pairs that passed."""
        return self.passed / self.asked

    @property
    def warning(self) -> str | None:
        """What is wrong and what to do, in one line; None if enough pairs passed."""
        if self.share >= self.least:
            return None
        return (
            f"{self.judge} passes only {self.share:.0%} of {self.asked} known pairs at {self.high:g} "
            f"(median {self.median:.2f}) and would convert almost nothing; train it longer on clean pairs, or lower "
            "ecm.zones.high"
        )

    def figures(self) -> dict[str, float]:
        """Figures for the log."""
        return {"judge_coverage": self.share, "judge_known_median": self.median}
