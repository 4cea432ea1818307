"""What judges whether an image and a caption match although nobody declared them a pair."""

from typing import Protocol

from torch import Tensor

from truepair.data.collate import PairBatch


class Discriminator(Protocol):
    """con-D (COSMO/MAFA, section 3): a frozen judge of pairs.

    Attributes:
        name: for logs.
        fingerprint: of everything a verdict depends on: weights, preprocessing, view. Verdicts of different judges
            never mix.
        repeatable: whether a verdict is a function of image id and caption id, so that it may be remembered. A judge
            that sees augmented crops is not repeatable: each crop has a verdict of its own.
    """

    name: str
    fingerprint: str
    repeatable: bool

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities of some (image row, text row) pairs of a batch; no gradient, no dropout.

        Args:
            batch: B pairs.
            images: image rows, int64 [P].
            texts: text rows, int64 [P].

        Returns:
            Probabilities in [0, 1], float32 [P], on the device of ``images``.
        """
        ...


def ledger_name(discriminator: Discriminator) -> str:
    """The name under which a judge's verdicts stand in a ledger; those of another judge have another."""
    return f"con_d:{discriminator.fingerprint[:12]}"
