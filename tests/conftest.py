"""A tiny data set whose truth is known, shared by the tests of whole runs."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

# One thread a process: `make test` runs two on two cores, and tiny models wait for threads longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
settings.register_profile("truepair", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("truepair")

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (250, 250, 250)}
SIDES = {"small": 4, "middle": 8, "large": 14}


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures: 12 kinds of squares in four shades; the last shade is the test split. Each kind has two captions."""
    folder = tmp_path_factory.mktemp("squares")
    lines = []
    for colour, rgb in COLOURS.items():
        for size, side in SIDES.items():
            for shade in range(4):
                picture = Image.new("RGB", (16, 16), "black")
                dark = tuple(value * (20 - shade) // 20 for value in rgb)
                picture.paste(dark, (1, 1, 1 + side, 1 + side))
                name = f"{colour}-{size}-{shade}.png"
                picture.save(folder / name)
                caption = f"a {size} {colour} square" if shade % 2 else f"{colour} square, {size}"
                split = "test" if shade == 3 else "train"
                row = {"image": name, "captions": [caption], "split": split, "group": f"{colour} {size}"}
                lines.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder
