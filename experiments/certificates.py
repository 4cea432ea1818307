"""Do certificates hold? Replays of certifying a judge whose probabilities are wrong in many ways.

Run::

    python experiments/certificates.py --replays 500 --json experiments/results/certificates.json
    truepair mine src/truepair/data/sample/emoji.parquet --run-folder runs/emoji
    python experiments/certificates.py --mined runs/emoji --json experiments/results/certificates_drawings.json

In each replay a world is drawn: how many pairs match, how well a judge tells them, and how far its probabilities are
off (too bold or too shy, too high or too low, blind to some non-matches near the top). The plan of
``truepair.mining.certification`` is made, the sample is answered by the truth, and what is stated is compared with the
true share of matches among the pairs that it is about. A stated precision should hold in at least 95 % of the replays
that state one; the ladder of thresholds is compared with single thresholds.

With ``--mined``, the worlds are reviews of a mined folder whose data states its truth: a person who answers by it is
asked 200 pairs as ``truepair review`` asks them, each time drawn anew, and the judge is fitted on those answers.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from truepair.data.splits import DataConfig, build_tables
from truepair.errors import ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.judges.answered import Standardised, fit_answered
from truepair.mining.asking import next_round
from truepair.mining.candidates import Candidates
from truepair.mining.certification import LADDER, plan_certificate, progress_of
from truepair.mining.pictures import read_mining
from truepair.relations.text import caption_key
from truepair.review.session import EACH

PRECISIONS = (0.8, 0.9, 0.95)
DESIGNS = {"ladder": LADDER, **{f"one threshold, {part:g}": (part,) for part in LADDER}}
CELLS = 20_000


@dataclass(frozen=True)
class World:
    """A judge and the truth.

    Attributes:
        probabilities: of the candidates, by the judge [P].
        free: those that nobody has answered [P].
        truth: whether they match [P].
    """

    probabilities: NDArray[np.float32]
    free: NDArray[np.bool_]
    truth: NDArray[np.bool_]


def made_world(seed: int) -> World:
    """A judge that is wrong about itself in some way."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(random.uniform(-5, -2), random.uniform(2, 4), CELLS)
    truth = random.random(CELLS) < expit(log_odds)
    blind = random.uniform(0, 0.03)  # of the top are no match, and the judge cannot know
    truth &= random.random(CELLS) >= blind
    stated = random.uniform(0.75, 1.35) * log_odds + random.normal(0, 0.5)
    return World(expit(stated).astype(np.float32), np.ones(CELLS, np.bool_), truth)


class MinedWorlds:
    """Reviews of a mined folder.

    Args:
        folder: made by ``truepair mine``.
        answers: how many pairs are asked.
    """

    def __init__(self, folder: Path, answers: int = 200) -> None:
        self.candidates = Candidates.load(folder)
        self.signals = Standardised.of(self.candidates.signals)
        self.answers = answers
        table = build_tables(DataConfig(sources=read_mining(folder)["sources"])).train
        truth = Truth.from_table(table)
        if truth is None or len(table) != read_mining(folder)["rows"]:
            raise DataError(f"{folder} was not mined from data that states its truth, as it is now")
        keys = torch.tensor([caption_key(text) for text in self.candidates.texts])
        rows = torch.from_numpy(self.candidates.rows[self.candidates.pictures])
        self.truth = truth.matches(rows, keys[torch.tensor(self.candidates.captions)]).numpy()

    def __call__(self, seed: int) -> World:
        """Ask, and fit."""
        prior, pictures = self.candidates.prior, self.candidates.pictures
        log_odds, asked = prior, np.zeros(0, np.int64)
        free = np.ones(len(prior), np.bool_)
        while len(asked) < self.answers:
            size = min(EACH, self.answers - len(asked))
            numbers = [number for number, _ in next_round(log_odds, free, len(asked), seed, size=size)]
            asked = np.append(asked, numbers)
            free[numbers] = False
            shares = self.truth[asked].astype(np.float64)
            fit = fit_answered(self.candidates.names, self.signals, prior, asked, shares, pictures[asked])
            log_odds = fit.judge.log_odds_of(self.signals.values, prior)
        return World(expit(log_odds), free, self.truth)


def replay(world: World, seed: int, precision: float, ladder: tuple[float, ...]) -> dict[str, float] | None:
    """Certify once; None where the judge promises too little for any plan."""
    try:
        plan = plan_certificate(world.probabilities, world.free, precision, seed=seed, ladder=ladder)
    except ConfigError:
        return None
    found: dict[int, bool] = {}
    while not (progress := progress_of(plan, found)).over:
        found[progress.waiting[0]] = bool(world.truth[progress.waiting[0]])
    if not progress.passed:
        return {"answers": len(found), "pairs": 0, "holds": 1.0}
    rung = plan.rungs[progress.passed - 1]
    meant = world.free & (world.probabilities >= np.float32(rung.threshold))
    assert meant.sum() == rung.pairs
    return {"answers": len(found), "pairs": rung.pairs, "holds": float(world.truth[meant].mean() >= precision)}


def row_of(precision: float, design: str, every: list[dict[str, float] | None]) -> dict[str, float | str]:
    """What the replays of one design came to."""
    tried = [one for one in every if one is not None]
    issued = [one for one in tried if one["pairs"]]
    return {
        "precision": precision,
        "design": design,
        "replays": len(every),
        "planned": len(tried),
        "issued": len(issued),
        "holds": sum(one["holds"] for one in issued) / max(len(issued), 1),
        "pairs_certified": sum(one["pairs"] for one in tried) / max(len(tried), 1),
        "answers": sum(one["answers"] for one in tried) / max(len(tried), 1),
    }


def main() -> None:
    """Replay, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--mined", type=Path, help="a folder that truepair mine wrote; its data states the truth")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    worlds = made_world if options.mined is None else MinedWorlds(options.mined)
    cases = [(precision, design) for precision in PRECISIONS for design in DESIGNS]
    found: dict[tuple[float, str], list[dict[str, float] | None]] = {case: [] for case in cases}
    for seed in range(options.replays):
        world = worlds(seed)
        for precision, design in cases:
            found[precision, design].append(replay(world, seed, precision, DESIGNS[design]))
    rows = [row_of(precision, design, every) for (precision, design), every in found.items()]
    for row in rows:
        print(
            "{precision:.2f} {design:22} planned {planned}, issued {issued}, of which {holds:.1%} hold; "
            "{pairs_certified:,.0f} pairs certified for {answers:.0f} answers".format(**row),
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
