"""Which rows probably match, by verdicts that lie in a ledger: those that hard batches keep apart."""

import numpy as np
import torch

from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.relations.ledger import VerdictIndex
from truepair.sampling.plan import Indices


def probable_pairs(verdicts: VerdictIndex, table: PairTable, captions: str, below: float) -> Indices:
    """Pairs of rows of which the image of one and a caption of the other probably match.

    Args:
        verdicts: Of a ledger; one on a picture holds for all rows that show it.
        table: The training rows.
        captions: "draw", "first" or "pairs", as in ``DataConfig``: of the others, only first captions count.
        below: Probability from which on a pair counts.

    Returns:
        Numbers of two rows, the smaller first, each pair once, int64 [P, 2].
    """
    pictures, counts, ids = table.picture_keys, table.caption_counts, table.caption_ids
    owners = np.repeat(np.arange(len(table)), counts)  # [number of captions]
    if captions != "draw":
        owners, ids = owners[table.first_captions], ids[table.first_captions]
    known = verdicts.of_pictures(table.image_ids, pictures).within(torch.tensor(pictures), torch.tensor(ids))
    probable = known.where(known.values >= below)
    both = np.stack([probable.rows.numpy(), owners[probable.columns.numpy()]], axis=1)  # [P, 2]
    both.sort(axis=1)
    return np.unique(both[both[:, 0] != both[:, 1]], axis=0)


def pairs_apart(
    ledger: str, verdicts: VerdictIndex, table: PairTable, captions: str, below: float
) -> tuple[Indices, str]:
    """The pairs of rows that a ledger keeps apart, and a line that says how many.

    Args:
        ledger: As the recipe names it.
        verdicts: Its verdicts.
        table: The training rows.
        captions: "draw", "first" or "pairs".
        below: Probability from which on a pair counts.

    Raises:
        ConfigError: It has verdicts, but on none of these rows.
    """
    about = verdicts.about(table.image_ids, table.caption_ids)
    if len(about) and not about.any():
        raise ConfigError(
            f"sampler.hardness.ledger {ledger}: none of its {len(about):,} verdicts is about a training pair; it is of "
            "other data"
        )
    pairs = probable_pairs(verdicts, table, captions, below)
    return pairs, (
        f"{ledger}: {len(pairs):,} pairs of rows match with a probability of {below:g} or more; hard batches keep them "
        "apart (sampler.hardness.below)"
    )
