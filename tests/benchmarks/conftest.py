import sys
from pathlib import Path

# The benchmarks are not installed: they are found the way `python benchmarks/waits.py` finds them.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
