import sys
from pathlib import Path

# The scripts are not installed: they are found the way `python scripts/build_sample.py` finds them.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
