"""How often a study's 95 % intervals hold the true difference, when samples of concepts differ by themselves.

python experiments/interval_coverage.py
"""

import numpy as np

from truepair.tasks.study.statistics import paired_difference
from truepair.tasks.study.table import Cell

TRIALS = 2000
SPREADS = (0.0, 0.5, 1.0, 2.0)  # of the samples of concepts, in units of the spread of the seeds
DESIGNS = ((3, 5), (5, 3), (10, 2))  # samples of concepts, seeds each


def coverage(samples: int, seeds: int, spread: float, rng: np.random.Generator) -> float:
    """Share of trials whose interval holds the true difference, which is zero."""
    cells = [Cell(sample, seed) for sample in range(samples) for seed in range(seeds)]
    nothing = dict.fromkeys(cells, 0.0)
    held = 0
    for _ in range(TRIALS):
        shifts = rng.normal(0, spread, samples)
        found = paired_difference({cell: shifts[cell.data_seed] + rng.normal() for cell in cells}, nothing)
        assert found is not None
        held += found.low <= 0 <= found.high
    return held / TRIALS


def main() -> None:
    """Print a table in Markdown."""
    rng = np.random.default_rng(0)
    print(f"| samples x seeds | {' | '.join(f'{spread:g}' for spread in SPREADS)} |")
    print("| --- " * (len(SPREADS) + 1) + "|")
    for samples, seeds in DESIGNS:
        shares = [coverage(samples, seeds, spread, rng) for spread in SPREADS]
        print(f"| {samples} x {seeds} | {' | '.join(f'{share:.0%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
