"""How long a fit of the judge on people's answers takes, and the scores of all candidates by it.

Run::

    python benchmarks/answered.py --candidates 1000000 --signals 60 --answers 400
"""

import argparse
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from truepair.judges.answered import Standardised, fit_answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--answers", type=int, nargs="+", default=[10, 100, 200, 400, 800])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    signals = random.standard_normal((options.candidates, options.signals), dtype=np.float32)
    prior = signals[:, 0] - 2
    pictures = random.integers(options.candidates // 50 + 1, size=options.candidates)
    names = [f"made/{number}" for number in range(options.signals)]
    with threadpool_limits(limits=options.threads):
        start = perf_counter()
        standardised = Standardised.of(signals)
        print(f"standardising once: {perf_counter() - start:.2f} s")
        for answers in options.answers:
            which = random.choice(options.candidates, answers, replace=False)
            shares = (signals[which, :5].sum(1) + random.logistic(size=answers) > 1).astype(np.float64)
            start = perf_counter()
            fit = fit_answered(names, standardised, prior, which, shares, pictures[which])
            fitted = perf_counter()
            fit.judge.log_odds_of(standardised.values, prior)
            scored = perf_counter()
            print(f"{answers:,} answers: fit {fitted - start:.3f} s, scores {scored - fitted:.3f} s")


if __name__ == "__main__":
    main()
