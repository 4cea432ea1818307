"""Move known matches out of each other's batch by swapping samples between batches."""

import numpy as np
from numpy.typing import NDArray

from truepair.sampling.known import KnownMatches

_TRIES = 32


def separate(
    order: NDArray[np.int64], bounds: NDArray[np.int64], known: KnownMatches, rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Swap samples between batches until no batch holds a known match, where that can be found.

    Only a sample that clashes is moved, against a random one of another batch where both fit, so few batches change.

    Args:
        order: Permutation of the dataset indices [N]; its first ``bounds[-1]`` entries are cut into batches.
        bounds: Where each batch begins, and where the last one ends [T + 1].
        known: The matches.
        rng: Chooses the swaps.

    Returns:
        The new order [N], and the number of samples that still clash: more matches of one sample than batches, say.
    """
    kept = int(bounds[-1])
    swaps = _Swaps(order.copy(), bounds, known, rng)
    for place in known.clashes(order[:kept], swaps.batch[:kept]):
        swaps.move(int(place))
    left = known.clashes(swaps.order[:kept], swaps.batch[:kept])
    return swaps.order, len(left)


class _Swaps:
    """An order of samples in which two can change places."""

    def __init__(
        self,
        order: NDArray[np.int64],
        bounds: NDArray[np.int64],
        known: KnownMatches,
        rng: np.random.Generator,
    ) -> None:
        self.order = order
        self.bounds = bounds
        self.known = known
        self.rng = rng
        self.batch = np.full(len(order), -1, np.int64)  # [N]: batch of each place, -1 for samples left out
        self.batch[: bounds[-1]] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        self.place = np.empty_like(order)  # [N]: place of each sample
        self.place[order] = np.arange(len(order))

    def move(self, place: int) -> None:
        """Swap the sample at a place into a batch that holds no match of it, if one is found."""
        sample, home = int(self.order[place]), int(self.batch[place])
        taken = self._batches_of_partners(sample)
        if home not in taken:
            return  # an earlier swap has solved it
        for target in self._candidates(taken):
            other_place = int(self.rng.integers(self.bounds[target], self.bounds[target + 1]))
            other = int(self.order[other_place])
            partners = self.known.partners(other)
            if home not in self.batch[self.place[partners[partners != sample]]]:
                self.order[place], self.order[other_place] = other, sample
                self.place[sample], self.place[other] = other_place, place
                return

    def _batches_of_partners(self, sample: int) -> NDArray[np.int64]:
        return np.unique(self.batch[self.place[self.known.partners(sample)]])

    def _candidates(self, taken: NDArray[np.int64]) -> NDArray[np.int64]:
        """Random batches without a match of the sample, at most ``_TRIES``."""
        batches = len(self.bounds) - 1
        drawn = self.rng.integers(batches, size=_TRIES)
        free = drawn[~np.isin(drawn, taken)]
        if len(free):
            return free
        return self.rng.permutation(np.setdiff1d(np.arange(batches), taken))[:_TRIES]
