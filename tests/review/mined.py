"""A mined folder without a mine: cells with signals that know something of a truth."""

from pathlib import Path

import numpy as np

from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Lists
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Standing

NAMES = ("captions/best", "captions/mean", "pictures/best", "words/kind", "itm/probability")


def lists(rows: list[list[int]]) -> Lists:
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return Lists(starts, np.array([value for row in rows for value in row], np.int64))


def candidates_of(pictures: int = 40, per: int = 15, seed: int = 0) -> tuple[Candidates, np.ndarray]:
    """Each picture has one caption and two image ids, each caption one id; and the truth of each candidate."""
    random = np.random.default_rng(seed)
    cells = [
        (picture, caption)
        for picture in range(pictures)
        for caption in random.choice(np.delete(np.arange(pictures), picture), per, replace=False)
    ]
    count = len(cells)
    known = random.normal(size=count) - 1.6
    truth = known + 0.2 * random.normal(size=count) > 0
    signals = np.stack(
        [
            known + 0.5 * random.normal(size=count),
            known + 2 * random.normal(size=count),
            known + 0.5 * random.normal(size=count),
            random.normal(size=count),
            1 / (1 + np.exp(-known - random.normal(size=count))),
        ],
        axis=1,
    ).astype(np.float32)
    signals[random.random(count) < 0.05, 1] = np.nan
    prior = (signals[:, 0] - 2).astype(np.float32)
    order = np.argsort(-prior, kind="stable")
    found = Candidates(
        pictures=np.array([picture for picture, _ in cells], np.int64)[order],
        captions=np.array([caption for _, caption in cells], np.int64)[order],
        signals=signals[order],
        names=NAMES,
        prior=prior[order],
        texts=[f"caption {number}" for number in range(pictures)],
        image_ids=lists([[2 * number + 1, 2 * number + 2] for number in range(pictures)]),
        caption_ids=lists([[10_000 + number] for number in range(pictures)]),
        own=lists([[number] for number in range(pictures)]),
        owners=lists([[number] for number in range(pictures)]),
        paths=[f"{number}.png" for number in range(pictures)],
        rows=np.arange(pictures),
    )
    return found, truth[order]


def mined_folder(folder: Path, **settings: int) -> dict[str, bool]:
    """Write one, and return the truth of each question's key."""
    candidates, truth = candidates_of(**settings)
    candidates.save(folder)
    with Ledger(folder / "ledger") as ledger:
        candidates.record(ledger, 1 / (1 + np.exp(-candidates.prior)), judge="prior:0")
    Standing(judge="prior:0").save(folder / "ledger")
    cells = zip(candidates.pictures.tolist(), candidates.captions.tolist(), truth.tolist(), strict=True)
    return {f"{picture}-{caption}": match for picture, caption, match in cells}
