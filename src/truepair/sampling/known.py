"""Known matches: kept out of each other's batch."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.relations.ranges import ranges
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

    def adding(self, pairs: Indices) -> "KnownMatches":
        """These matches and further ones, dataset indices [P, 2]."""
        return KnownMatches(self.keys, np.concatenate([self.pairs, pairs]))

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
        found = [self.paired(sample)]
        for column, key in enumerate(self.keys[sample] if len(self.keys) else ()):
            if key >= 0:
                found.append(self.holders(column, int(key)))
        together = np.unique(np.concatenate(found))
        return np.asarray(together[together != sample], np.int64)

    def paired(self, sample: int) -> Indices:
        """The partners of one sample among the further matches alone, int64 [P]."""
        found = self._target[slice(*np.searchsorted(self._source, [sample, sample + 1]))]
        return np.asarray(found, np.int64)

    def holders(self, column: int, key: int) -> Indices:
        """All samples with a key in a column, int64 [P]."""
        order, keys = self._by_key[column], self.keys[:, column]
        first = np.searchsorted(keys, key, side="left", sorter=order)
        last = np.searchsorted(keys, key, side="right", sorter=order)
        return order[first:last]

    def crowded(self, batches: int) -> Indices:
        """How many rows have each key that more rows have than there are batches, int64 [K]: some must meet."""
        counts = [np.unique(column[column >= 0], return_counts=True)[1] for column in self.keys.T]
        together = np.concatenate(counts) if counts else np.empty(0, np.int64)
        return np.asarray(together[together > batches], np.int64)

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
        rows, places = ranges(first, counts)
        return rows, self._target[places]


class FoundMatches:
    """Matches that training finds: collected over an epoch, and heeded from the next plan on."""

    def __init__(self) -> None:
        self.heeded = np.empty((0, 2), np.int64)  # [P, 2], each pair once, the smaller sample first
        self._fresh: list[Indices] = []  # [n, 2] each, as they came

    def add(self, pairs: Indices) -> None:
        """Note pairs of dataset indices [n, 2], in whatever order and however often."""
        self._fresh.append(np.sort(pairs, axis=1))

    def heed(self) -> bool:
        """Let what was noted count; whether that is anything new."""
        before = len(self.heeded)
        self.heeded = np.unique(np.concatenate([self.heeded, *self._fresh]), axis=0)
        self._fresh = []
        return len(self.heeded) > before

    def state_dict(self) -> dict[str, Tensor]:
        """Both, as CPU tensors [P, 2] and [n, 2]."""
        fresh = np.concatenate([np.empty((0, 2), np.int64), *self._fresh])
        return {"heeded": torch.from_numpy(self.heeded.copy()), "fresh": torch.from_numpy(fresh)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.heeded = state["heeded"].numpy().copy()
        self._fresh = [state["fresh"].numpy().copy()]


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
    """An order of samples in which two can change places.

    Thousands of rows may share a caption, so how many rows of a key each batch holds is counted once and kept.
    """

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
        self._rows: dict[tuple[int, int], Counter[int]] = {}  # of a column and key: rows in each batch

    def move(self, place: int) -> None:
        """Swap the sample at a place into a batch that holds no match of it, if one is found."""
        sample, home = int(self.order[place]), int(self.batch[place])
        if not self._meets(sample, home):
            return  # an earlier swap has solved it
        for target in self._candidates(sample):
            other_place = int(self.rng.integers(self.bounds[target], self.bounds[target + 1]))
            other = int(self.order[other_place])
            if not self._meets(other, home, besides=sample):
                self._swap(place, other_place)
                return

    def _swap(self, first: int, second: int) -> None:
        for here, there in ((first, second), (second, first)):
            sample = int(self.order[here])
            for _, rows in self._keys(sample):
                rows[int(self.batch[there])] += 1
                rows[int(self.batch[here])] -= 1
                if not rows[int(self.batch[here])]:
                    del rows[int(self.batch[here])]
            self.place[sample] = there
        self.order[first], self.order[second] = self.order[second], self.order[first]

    def _keys(self, sample: int) -> Iterator[tuple[int, Counter[int]]]:
        """The columns in which a sample has a key, and how many rows of that key each batch holds."""
        for column, key in enumerate(self.known.keys[sample].tolist() if len(self.known.keys) else ()):
            if key < 0:
                continue
            if (column, key) not in self._rows:
                batches = self.batch[self.place[self.known.holders(column, key)]]
                self._rows[column, key] = Counter(batches[batches >= 0].tolist())
            yield column, self._rows[column, key]

    def _meets(self, sample: int, batch: int, besides: int = -1) -> bool:
        """Whether a match of a sample, other than itself and ``besides``, stands in a batch."""
        for column, rows in self._keys(sample):
            keys = self.known.keys[:, column]
            own = {sample} if besides < 0 or keys[besides] != keys[sample] else {sample, besides}
            if rows[batch] > sum(int(self.batch[self.place[each]]) == batch for each in own):
                return True
        partners = self.known.paired(sample)
        return batch in self.batch[self.place[partners[partners != besides]]]

    def _candidates(self, sample: int) -> Indices:
        """Random batches without a match of a sample, at most ``_TRIES``; none if one of its keys is in every batch."""
        batches = len(self.bounds) - 1
        held = [rows for _, rows in self._keys(sample)]
        if any(len(rows) == batches for rows in held):
            return np.empty(0, np.int64)
        drawn = self.rng.integers(batches, size=_TRIES)
        free = [int(batch) for batch in drawn if not self._meets(sample, int(batch))]
        if free:
            return np.array(free)
        taken = [batch for rows in held for batch in rows]
        taken += self.batch[self.place[self.known.paired(sample)]].tolist()
        return self.rng.permutation(np.setdiff1d(np.arange(batches), taken))[:_TRIES]
