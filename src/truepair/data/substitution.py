"""The record of samples that could not be read and what stood in for them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from truepair.errors import DataError


@dataclass(frozen=True)
class Substitution:
    """One visit of a sample that could not be read.

    Attributes:
        index: row that was asked for.
        source_index: row that was delivered in its place.
        reason: why the first could not be read.
    """

    index: int
    source_index: int
    reason: str


class _Delivered(Protocol):
    """What the log reads of a ``PairBatch``."""

    @property
    def index(self) -> Tensor:
        """Rows that were asked for [B]."""
        ...

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered [B]."""
        ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why a row was substituted, or empty [B]."""
        ...


class SubstitutionLog:
    """Collects, in the main process, the substitutions that batches report, and stops a run that has too many.

    Workers hold copies of the dataset, so they cannot count for it: each batch carries its own substitutions.

    Args:
        max_fraction: largest share of visits that may be substituted.
        min_visits: visits before that share is judged.

    Attributes:
        visits: samples seen so far.
        entries: each substituted row once, with its last substitute and reason, by row.
        count: substituted visits so far.
    """

    def __init__(self, max_fraction: float = 0.05, min_visits: int = 200) -> None:
        self.max_fraction = max_fraction
        self.min_visits = min_visits
        self.visits = 0
        self.count = 0
        self._by_row: dict[int, Substitution] = {}

    @property
    def entries(self) -> list[Substitution]:
        """Each substituted row once, in row order."""
        return [self._by_row[row] for row in sorted(self._by_row)]

    def update(self, batch: _Delivered) -> None:
        """Take in one batch.

        Raises:
            DataError: more than ``max_fraction`` of the visits so far were substituted.
        """
        self.visits += len(batch.reasons)
        for position, reason in enumerate(batch.reasons):
            if reason:
                row, stand_in = int(batch.index[position]), int(batch.source_index[position])
                self._by_row[row] = Substitution(row, stand_in, reason)
                self.count += 1
        if self.visits >= self.min_visits and self.count > self.max_fraction * self.visits:
            last = next(reversed(self._by_row.values()))
            raise DataError(
                f"{self.count} of {self.visits} samples could not be read, over the limit of {self.max_fraction:.1%}; "
                f"repair the data or raise max_fraction; the last: {last.reason}"
            )

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, of simple types."""
        return {"visits": self.visits, "count": self.count, "entries": [asdict(entry) for entry in self.entries]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.visits, self.count = state["visits"], state["count"]
        self._by_row = {entry["index"]: Substitution(**entry) for entry in state["entries"]}
