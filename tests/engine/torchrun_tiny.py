"""What torchrun starts in a test: a tiny run on two ranks, of which the second dies once, at a stated step."""

import os
import sys
from pathlib import Path

import torch

from tests.engine.processes import Fault
from tests.engine.tiny import TinyRun


def main(folder: Path, die_at: int) -> None:
    torch.set_num_threads(1)
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        Fault("truepair.engine.loop.update:_hardest", die_at).arm()
    TinyRun(folder, loop={"batch_size": 2}).go()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
