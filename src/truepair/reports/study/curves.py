"""Figures of a study's runs over training, averaged over the cells of an arm."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import DataError
from truepair.reports.data import Line

COLUMNS = ("arm", "data", "epoch", "name", "value")


class StudyCurves:
    """Means over cells by arm, data, name and epoch.

    Args:
        rows: epoch (from 1), name and value, with arm and data; one for each cell that has the figure.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        found: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            found[row["arm"], row["data"], row["name"]][row["epoch"]].append(row["value"])
        self._means = {
            key: {epoch: sum(values) / len(values) for epoch, values in sorted(epochs.items())}
            for key, epochs in found.items()
        }

    @classmethod
    def read(cls, path: Path) -> "StudyCurves":
        """Read ``curves.parquet``; a study without that file has no curves.

        Raises:
            DataError: the file cannot be read, or lacks a column.
        """
        if not path.exists():
            return cls()
        try:
            return cls(pq.read_table(path, columns=list(COLUMNS)).to_pylist())
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"curves cannot be read from {path} ({error}); remove it and run the study again") from None

    def line(self, arm: str, data: str, name: str, *, factor: float = 1.0) -> list[Line]:
        """An arm's mean figure by epoch; no line where no cell has it.

        Args:
            arm: of the study.
            data: kind of data.
            name: of the figure.
            factor: the values are multiplied by it.
        """
        means = self._means.get((arm, data, name), {})
        x = [float(epoch) for epoch in means]
        return [Line(name=arm, x=x, y=[factor * value for value in means.values()])] if means else []

    def last(self, arm: str, data: str, name: str) -> float | None:
        """An arm's mean figure in the last epoch that has it."""
        means = self._means.get((arm, data, name), {})
        return list(means.values())[-1] if means else None

    def bins(self, arm: str, data: str, name: str) -> list[float]:
        """Shares, in per cent, of counts called ``name/00``, ``name/01``, ... in their last epoch; empty if none."""
        counts: list[float] = []
        while (count := self.last(arm, data, f"{name}/{len(counts):02d}")) is not None:
            counts.append(count)
        total = sum(counts)
        return [100 * count / total for count in counts] if total else []
