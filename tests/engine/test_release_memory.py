from pathlib import Path

import pytest
import torch

from truepair.engine.loop.update import release_free_memory

BLOCK, COUNT = 1 << 20, 200  # below what the C library maps by itself


def resident() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_holes_between_blocks_are_given_back() -> None:
    torch.ones(8 * BLOCK)  # blocks up to this size come from the heap from now on
    blocks = [torch.ones(BLOCK // 4) for _ in range(COUNT)]
    kept = blocks[::2]
    del blocks
    before = resident()
    release_free_memory(1e9)  # so large a share is never free: nothing is given back
    assert before - resident() < 0.1 * BLOCK * COUNT / 2
    release_free_memory(1e-9)
    assert before - resident() > 0.8 * BLOCK * COUNT / 2
    assert all(bool((block == 1).all()) for block in kept)
