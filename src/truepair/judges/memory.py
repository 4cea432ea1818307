"""Verdicts of a frozen judge, kept so that no pair is judged twice."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.errors import CheckpointError, ConfigError
from truepair.judges.base import Judge
from truepair.randomness import GOLDEN, splitmix64

Keys = NDArray[np.int64]

Scores = NDArray[np.float32]


class VerdictMemory:
    """Scores by (image id, caption id), for tens of millions of pairs: 12 bytes each, no loop over pairs.

    A pair's key is a 64-bit mix of its two ids; among ten million pairs, two share a key with a chance of 3 in a
    million. Keys lie in sorted runs, each more than twice as long as the next. New verdicts are a new run, and runs
    that have come too close in length are merged: a verdict is moved O(log N) times in all, and a lookup is a few
    binary searches.

    Attributes:
        hits: lookups answered since the last :meth:`reset_counts`.
        misses: lookups that had to be asked.
    """

    def __init__(self, fingerprint: str, *, limit: int | None = None) -> None:
        """An empty memory.

        Args:
            fingerprint: of the judge whose verdicts it holds, hexadecimal.
            limit: most verdicts to hold; further ones are not kept. None for no limit.

        Raises:
            ConfigError: ``limit`` is below 1.
        """
        if limit is not None and limit < 1:
            raise ConfigError(f"ecm.judge.memory_limit is {limit}; give at least 1, or memory: false")
        self.fingerprint = fingerprint
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self._runs: list[tuple[Keys, Scores]] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._runs)

    def scores(self, image_ids: Tensor, caption_ids: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Scores of pairs, remembered or asked for; each pair is asked once, however often it stands in the query.

        Args:
            image_ids: int64 [P].
            caption_ids: int64 [P].
            ask: given the places of Q unknown pairs in the query, int64 [Q] in rising order on the CPU, returns their
                scores [Q].

        Returns:
            float32 [P], on the CPU.
        """
        keys, first, inverse = np.unique(_keys(image_ids, caption_ids), return_index=True, return_inverse=True)
        found, known = self._find(keys)
        unknown = np.flatnonzero(~known)
        if len(unknown):
            order = np.argsort(first[unknown])
            places = torch.from_numpy(first[unknown][order])
            answers = ask(places).detach().to("cpu", torch.float32).numpy()
            found[unknown[order]] = answers
            self._insert(keys[unknown], found[unknown])
        self.misses += len(unknown)
        self.hits += len(inverse) - len(unknown)
        return torch.from_numpy(found[inverse])

    def reset_counts(self) -> None:
        """Count hits and misses from zero again."""
        self.hits = self.misses = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as tensors: the verdicts [N], the counts, and the judge's fingerprint."""
        self._merge(everything=True)
        keys, scores = self._runs[0] if self._runs else _EMPTY
        return {
            "keys": torch.from_numpy(keys.copy()),
            "scores": torch.from_numpy(scores.copy()),
            "counts": torch.tensor([self.hits, self.misses]),
            "fingerprint": torch.tensor(list(self.fingerprint.encode()), dtype=torch.uint8),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: it holds the verdicts of another judge.
        """
        saved = bytes(state["fingerprint"].tolist()).decode()
        if saved != self.fingerprint:
            raise CheckpointError(
                f"the saved verdicts are of judge {saved[:12]}, this run's is {self.fingerprint[:12]}; "
                "resume with the same judge, or start anew"
            )
        keys, scores = state["keys"].cpu().numpy().copy(), state["scores"].cpu().numpy().copy()
        self._runs = [(keys, scores)] if len(keys) else []
        self.hits, self.misses = state["counts"].tolist()

    def _find(self, keys: Keys) -> tuple[Scores, NDArray[np.bool_]]:
        """Scores of keys [P], and whether they are known [P]."""
        scores, known = np.zeros(len(keys), dtype=np.float32), np.zeros(len(keys), dtype=np.bool_)
        for run_keys, run_scores in self._runs:
            places = np.minimum(np.searchsorted(run_keys, keys), len(run_keys) - 1)
            here = run_keys[places] == keys
            scores[here] = run_scores[places[here]]
            known |= here
        return scores, known

    def _insert(self, keys: Keys, scores: Scores) -> None:
        """Add verdicts of new keys, distinct and sorted [Q], as far as there is room."""
        if self.limit is not None:
            room = max(self.limit - len(self), 0)
            keys, scores = keys[:room], scores[:room]
        if len(keys):
            self._runs.append((keys, scores))
            self._merge()

    def _merge(self, *, everything: bool = False) -> None:
        """Merge the last runs as long as they are of similar length."""
        runs = self._runs
        while len(runs) > 1 and (everything or len(runs[-2][0]) <= 2 * len(runs[-1][0])):
            last = runs.pop()
            runs[-1] = _merged(runs[-1], last)


_EMPTY: tuple[Keys, Scores] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def _merged(one: tuple[Keys, Scores], other: tuple[Keys, Scores]) -> tuple[Keys, Scores]:
    """Two sorted runs as one, in linear time."""
    count = len(one[0]) + len(other[0])
    of_other = np.searchsorted(one[0], other[0]) + np.arange(len(other[0]))
    from_one = np.ones(count, dtype=np.bool_)
    from_one[of_other] = False
    keys, scores = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    keys[from_one], scores[from_one] = one
    keys[of_other], scores[of_other] = other
    return keys, scores


def _keys(image_ids: Tensor, caption_ids: Tensor) -> Keys:
    """A 64-bit key of each pair of ids, int64 [P]."""
    images, captions = (ids.cpu().long() for ids in (image_ids, caption_ids))
    keys: Keys = splitmix64(splitmix64(images + GOLDEN) + captions + GOLDEN).numpy()
    return keys


class MemorisedJudge:
    """Asks a frozen judge once per (image id, caption id); it is a ``Judge`` itself.

    Args:
        judge: the frozen judge.
        memory: holds its verdicts.
    """

    def __init__(self, judge: Judge, memory: VerdictMemory) -> None:
        if memory.fingerprint != judge.fingerprint:
            raise ValueError("the memory is of another judge: make it with this judge's fingerprint")
        self.judge = judge
        self.memory = memory
        self.name = judge.name
        self.fingerprint = judge.fingerprint
        self.repeatable = judge.repeatable

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities [P], see ``Judge.score``; only pairs without a verdict reach the judge."""

        def ask(places: Tensor) -> Tensor:
            """Scores of the pairs at some places of the query."""
            at = places.to(images.device)
            return self.judge.score(batch, images[at], texts[at])

        scores = self.memory.scores(batch.image_id[images], batch.caption_id[texts], ask)
        return scores.to(images.device)
