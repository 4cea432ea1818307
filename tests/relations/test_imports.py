"""The two rooms that others use alone stay light."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, time
import numpy, torch, pyarrow, pyarrow.parquet, pyarrow.compute
before = set(sys.modules)
start = time.process_time()
import truepair.{room}
seconds = time.process_time() - start
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(seconds, *sorted(new - {{"truepair"}} - set(sys.stdlib_module_names)))
"""


@pytest.mark.parametrize("room", ["relations", "objectives"])
def test_import_is_quick_and_brings_nothing_else(room: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(room=room)], capture_output=True, text=True, check=True)
    seconds, *others = done.stdout.split()
    assert others == []
    assert float(seconds) < 1.0
