"""Write VQA v2 and NLVR2 data sets made from the bundled drawings.

    python scripts/build_sample_tasks.py OUT

Writes OUT/vqa and OUT/nlvr2 in the official layouts; see `truepair.data.sample_tasks`. A second run writes the same.
"""

import argparse
import sys
from pathlib import Path

from truepair.data.open import open_pairs
from truepair.data.sample_tasks import write_sample_nlvr2, write_sample_vqa
from truepair.errors import TruepairError


def main() -> int:
    """Parse the command line and write; 0 means success."""
    parser = argparse.ArgumentParser(description="Write VQA v2 and NLVR2 data sets made from the bundled drawings.")
    parser.add_argument("out", type=Path, help="folder to write to")
    options = parser.parse_args()
    try:
        table = open_pairs("sample")
        write_sample_vqa(table, options.out / "vqa")
        write_sample_nlvr2(table, options.out / "nlvr2")
    except (TruepairError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.out / 'vqa'} and {options.out / 'nlvr2'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
