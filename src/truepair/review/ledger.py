"""The ledger of a reviewed folder: the judge's probabilities, what people said, and what it stands on."""

from pathlib import Path

import numpy as np
import torch

from truepair.files import writing_folder
from truepair.mining.candidates import Floats
from truepair.relations.ledger import PERSON, Ledger
from truepair.relations.standing import Standing
from truepair.review.cells import Cells, Opinions

LOW = 0.1
"""Probabilities below this are not written."""


def write_reviewed(folder: Path, cells: Cells, log_odds: Floats, opinions: Opinions, standing: Standing) -> int:
    """Write it anew; a former one stays until it is whole.

    Args:
        folder: of the ledger.
        cells: of the candidates.
        log_odds: of the candidates [P].
        opinions: what people say; what they leave open is not written.
        standing: names the judge.

    Returns:
        How many verdicts of the judge were written.

    Raises:
        DataError: the disk refuses.
    """
    from scipy.special import expit

    probabilities: Floats = expit(log_odds)
    which = np.flatnonzero(probabilities >= LOW)
    time = np.datetime64("now", "ms")
    with writing_folder(folder) as aside:
        with Ledger(aside) as ledger:
            written = cells.candidates.record(ledger, probabilities[which], judge=standing.judge, which=which)
            for person in sorted({person for said in opinions.values() for person in said}):
                said = {cell: match for cell, each in opinions.items() if (match := each.get(person)) is not None}
                images, captions, places = cells.ids(said)
                matches = torch.tensor(list(said.values()), dtype=torch.float32)[torch.from_numpy(places)]
                ledger.record(
                    torch.from_numpy(images), torch.from_numpy(captions), matches, judge=PERSON + person, time=time
                )
        standing.save(aside)
    return written
