"""Check the GRIT walk against recordings of the official grouping; `tests/golden.py` calls this for such files."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from truepair.sampling.grit import grit_order


def check_grit_order(path: Path) -> list[tuple[str, float]]:
    """Walk again from the recorded start.

    Returns:
        Names of what was compared, each with the share of places that are wrong.

    Raises:
        SafetensorError, OSError, KeyError: when the recording cannot be read.
    """
    record = load_file(path)
    recorded = record["order"].long()  # [M]
    order = grit_order(record["image"], record["text"], start=int(recorded[0]))
    places = torch.arange(len(recorded))
    return [
        ("order is a permutation", float((order.sort().values != places).double().mean())),
        ("order", float((order != recorded).double().mean())),
    ]
