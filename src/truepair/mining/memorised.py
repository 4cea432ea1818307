"""A judge that remembers."""

from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.mining.discriminator import Discriminator
from truepair.mining.verdict_memory import VerdictMemory


class MemorisedDiscriminator:
    """Asks a frozen judge once per (image id, caption id); it is a ``Discriminator`` itself.

    Args:
        discriminator: the judge.
        memory: holds its verdicts.
    """

    def __init__(self, discriminator: Discriminator, memory: VerdictMemory) -> None:
        if memory.fingerprint != discriminator.fingerprint:
            raise ValueError("the memory is of another judge: make it with this discriminator's fingerprint")
        self.discriminator = discriminator
        self.memory = memory
        self.name = discriminator.name
        self.fingerprint = discriminator.fingerprint
        self.repeatable = discriminator.repeatable

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Discriminator.score``; only pairs without a verdict reach the judge."""

        def ask(places: Tensor) -> Tensor:
            """Scores of the pairs at some places of the query."""
            at = places.to(images.device)
            return self.discriminator.score(batch, images[at], texts[at])

        scores = self.memory.scores(batch.image_id[images], batch.caption_id[texts], ask)
        return scores.to(images.device)
