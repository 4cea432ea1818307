"""What a finished run leaves."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes:
        model_folder: the trained model and its tokenizer, as ``save_pretrained`` writes them.
        steps: optimizer steps of the whole run.
        seconds: wall time of this process's training steps (evaluation and checkpoints left out).
        pairs_per_second: training speed over that time.
        substituted: how many unreadable samples were replaced.
        best_folder: the checkpoint with the best validation figure, where ``loop.best_figure`` names one.
    """

    model_folder: Path
    steps: int
    seconds: float
    pairs_per_second: float
    substituted: int
    best_folder: Path | None = None
