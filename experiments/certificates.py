"""Do certificates hold? Replays of certifying a judge whose probabilities are wrong in many ways.

Run::

    python experiments/certificates.py --replays 500 --json experiments/results/certificates.json

In each replay a world is drawn: how many pairs match, how well a judge tells them, and how far its probabilities are
off (too bold or too shy, too high or too low, blind to some non-matches near the top). The plan of
``truepair.mining.certification`` is made, the sample is answered by the truth, and what is stated is compared with the
true share of matches among the pairs that it is about. A stated precision should hold in at least 95 % of the replays
that state one; the ladder of thresholds is compared with single thresholds.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from truepair.errors import ConfigError
from truepair.mining.certification import LADDER, plan_certificate, progress_of

PRECISIONS = (0.8, 0.9, 0.95)
DESIGNS = {"ladder": LADDER, **{f"one threshold, {part:g}": (part,) for part in LADDER}}
CELLS = 20_000


def world(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities of a judge, and the truth [P] each."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(random.uniform(-5, -2), random.uniform(2, 4), CELLS)
    truth = random.random(CELLS) < expit(log_odds)
    blind = random.uniform(0, 0.03)  # of the top are no match, and the judge cannot know
    truth &= random.random(CELLS) >= blind
    stated = random.uniform(0.75, 1.35) * log_odds + random.normal(0, 0.5)
    return expit(stated).astype(np.float32), truth


def replay(seed: int, precision: float, ladder: tuple[float, ...]) -> dict[str, float] | None:
    """Certify once; None where the judge promises too little for any plan."""
    probabilities, truth = world(seed)
    try:
        plan = plan_certificate(probabilities, np.ones(CELLS, np.bool_), precision, seed=seed, ladder=ladder)
    except ConfigError:
        return None
    found: dict[int, bool] = {}
    while not (progress := progress_of(plan, found)).over:
        found[progress.waiting[0]] = bool(truth[progress.waiting[0]])
    if not progress.passed:
        return {"answers": len(found), "pairs": 0, "holds": 1.0}
    rung = plan.rungs[progress.passed - 1]
    meant = probabilities >= np.float32(rung.threshold)
    assert meant.sum() == rung.pairs
    return {"answers": len(found), "pairs": rung.pairs, "holds": float(truth[meant].mean() >= precision)}


def main() -> None:
    """Replay, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for precision in PRECISIONS:
        for design, ladder in DESIGNS.items():
            every = [replay(seed, precision, ladder) for seed in range(options.replays)]
            tried = [one for one in every if one is not None]
            issued = [one for one in tried if one["pairs"]]
            rows.append(
                {
                    "precision": precision,
                    "design": design,
                    "replays": options.replays,
                    "planned": len(tried),
                    "issued": len(issued),
                    "holds": sum(one["holds"] for one in issued) / max(len(issued), 1),
                    "pairs_certified": sum(one["pairs"] for one in tried) / max(len(tried), 1),
                    "answers": sum(one["answers"] for one in tried) / max(len(tried), 1),
                }
            )
            print(
                "{precision:.2f} {design:22} planned {planned}, issued {issued}, of which {holds:.1%} hold; "
                "{pairs_certified:,.0f} pairs certified for {answers:.0f} answers".format(**rows[-1]),
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
