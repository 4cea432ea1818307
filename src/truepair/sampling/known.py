"""Known matches: kept out of each other's batch."""

import numpy as np
from numpy.typing import NDArray

from truepair.sampling.plan import Indices


class KnownMatches:
    """Which samples are known to match the partner of another: same image, same caption, a converted pair.

    Args:
        keys: Integers [N, K] or [N]: two samples with the same key in a column match (image id, caption key, ...). A
            negative key matches nothing.
        pairs: Further matches as dataset indices, integers [P, 2]; the order within a pair does not matter.

    Raises:
        ValueError: ``pairs`` is not [P, 2].
    """

    def __init__(self, keys: Indices | None = None, pairs: Indices | None = None) -> None:
        self.keys = np.empty((0, 0), np.int64) if keys is None else np.asarray(keys, np.int64)  # [N, K]
        if self.keys.ndim == 1:
            self.keys = self.keys[:, None]
        self._by_key = [np.argsort(column, kind="stable") for column in self.keys.T]
        self.pairs = np.empty((0, 2), np.int64) if pairs is None else np.asarray(pairs, np.int64)  # [P, 2]
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2:
            raise ValueError(f"pairs must be [P, 2], not {list(self.pairs.shape)}")
        both = np.concatenate([self.pairs, self.pairs[:, ::-1]])
        both = both[both[:, 0] != both[:, 1]]
        both = both[np.argsort(both[:, 0], kind="stable")]
        self._source, self._target = both[:, 0].copy(), both[:, 1].copy()  # [2P] each, sorted by source

    def matrix(self, indices: Indices) -> NDArray[np.bool_]:
        """Which of some distinct samples [M] match each other, bool [M, M] with False on the diagonal."""
        matches = np.zeros((len(indices), len(indices)), np.bool_)
        for column in self.keys.T:
            key = column[indices]  # [M]
            matches |= (key[:, None] == key) & (key >= 0)
        if len(self._source):
            place = np.argsort(indices)
            rows, partners = self._partners_of(indices)
            found = np.searchsorted(indices, partners, sorter=place).clip(max=len(indices) - 1)
            columns = place[found]
            inside = indices[columns] == partners
            matches[rows[inside], columns[inside]] = True
        np.fill_diagonal(matches, False)
        return matches

    def partners(self, sample: int) -> Indices:
        """All samples that match one sample, without itself, int64 [P], ascending."""
        found = [self._target[slice(*np.searchsorted(self._source, [sample, sample + 1]))]]
        for column, order in zip(self.keys.T, self._by_key, strict=True):
            key = column[sample]
            if key >= 0:
                first = np.searchsorted(column, key, side="left", sorter=order)
                last = np.searchsorted(column, key, side="right", sorter=order)
                found.append(order[first:last])
        together = np.unique(np.concatenate(found))
        return np.asarray(together[together != sample], np.int64)

    def clashes(self, samples: Indices, batch: Indices) -> Indices:
        """Find samples that match another of their batch.

        Args:
            samples: Distinct dataset indices [n].
            batch: The batch of each [n].

        Returns:
            Sorted positions in ``samples``: of samples that match within a batch, all but the first of a key, and one
            of a pair. Empty if no batch holds a match.
        """
        found = []
        for column in self.keys.T:
            key = column[samples]  # [n]
            order = np.lexsort((batch, key))
            again = (np.diff(key[order]) == 0) & (np.diff(batch[order]) == 0) & (key[order][1:] >= 0)
            found.append(order[1:][again])
        if len(self.pairs) and len(samples):
            size = int(max(samples.max(), self.pairs.max())) + 1
            place = np.full(size, -1, np.int64)
            place[samples] = np.arange(len(samples))
            first, second = place[self._source], place[self._target]
            here = (first >= 0) & (second >= 0) & (first < second)
            here[here] = batch[first[here]] == batch[second[here]]
            found.append(second[here])
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def _partners_of(self, indices: Indices) -> tuple[Indices, Indices]:
        """All pairs that begin at some samples [M]: the position in ``indices`` and the partner, of each."""
        first = np.searchsorted(self._source, indices, side="left")
        counts = np.searchsorted(self._source, indices, side="right") - first  # [M]
        rows = np.repeat(np.arange(len(indices)), counts)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._target[np.repeat(first, counts) + step]


_TRIES = 32


def separate(order: Indices, bounds: Indices, known: KnownMatches, rng: np.random.Generator) -> tuple[Indices, int]:
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
        order: Indices,
        bounds: Indices,
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

    def _batches_of_partners(self, sample: int) -> Indices:
        return np.unique(self.batch[self.place[self.known.partners(sample)]])

    def _candidates(self, taken: Indices) -> Indices:
        """Random batches without a match of the sample, at most ``_TRIES``."""
        batches = len(self.bounds) - 1
        drawn = self.rng.integers(batches, size=_TRIES)
        free = drawn[~np.isin(drawn, taken)]
        if len(free):
            return free
        return self.rng.permutation(np.setdiff1d(np.arange(batches), taken))[:_TRIES]
