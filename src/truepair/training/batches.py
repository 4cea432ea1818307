"""The visits of an epoch, cut into one rank's batches."""

from truepair.data.dataset import Visit
from truepair.errors import ConfigError
from truepair.sampling.random import random_batches, rank_share


class VisitBatches:
    """Random batches of an epoch for one rank, from any point on.

    Args:
        count: training pairs.
        batch_size: pairs of one batch on one rank.
        seed: seed of the run.
        rank: this process.
        ranks: how many processes there are.

    Raises:
        ConfigError: the pairs do not fill one global batch.
    """

    def __init__(self, count: int, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count = count
        self.global_batch = batch_size * ranks
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.per_epoch = count // self.global_batch
        if not self.per_epoch:
            raise ConfigError(
                f"{count} training pairs do not fill one batch of {self.global_batch}; lower loop.batch_size"
            )

    def visits(self, epoch: int, *, start: int = 0) -> list[list[Visit]]:
        """List this rank's batches of an epoch, from batch ``start`` on; a DataLoader's ``batch_sampler``."""
        batches = random_batches(self.count, self.global_batch, seed=self.seed, epoch=epoch)
        return [
            [Visit(epoch, int(index)) for index in rank_share(batch, self.rank, self.ranks)]
            for batch in batches[start:]
        ]
