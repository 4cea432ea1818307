"""The results of a study: one row for each cell and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import DataError

KEYS = ("arm", "data", "data_seed", "seed", "test")

FORMER_NAMES = {"ga": "retrieval_score", "itm_ga": "itm_retrieval_score"}
"""Figures by the names that results of truepair 1 have -> their names today."""


class Cell(NamedTuple):
    """One run of an arm on a kind of data: two arms are paired where these agree.

    Attributes:
        data_seed: which concepts were drawn.
        seed: of initialisation and order.
    """

    data_seed: int
    seed: int


Figures = Mapping[Cell, float]


@dataclass(frozen=True)
class StudyTable:
    """Rows with the keys arm, data, data_seed, seed and test, and figures in per cent; a figure may be None.

    Attributes:
        rows: one for each cell and test.
        arms: their order; those without rows are left out.
    """

    rows: Sequence[Mapping[str, Any]]
    arms: Sequence[str]

    @classmethod
    def read(cls, path: Path, arms: Sequence[str] = ()) -> Self:
        """Read ``results.parquet`` of a study.

        Args:
            path: the file.
            arms: order of the arms; those not named follow in order of appearance.

        Raises:
            DataError: there is no such file, it has no rows, or it lacks a column.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"results cannot be read from {path} ({error}); run the study first") from None
        table = table.rename_columns([FORMER_NAMES.get(name, name) for name in table.column_names])
        missing = [key for key in KEYS if key not in table.column_names]
        if missing or not table.num_rows:
            lack = f"no column {missing[0]!r}" if missing else "no rows"
            raise DataError(f"{path} has {lack}; it is not what a study gathers")
        rows = table.to_pylist()
        measured = dict.fromkeys(row["arm"] for row in rows)
        return cls(rows, [arm for arm in dict.fromkeys([*arms, *measured]) if arm in measured])

    @property
    def data(self) -> list[str]:
        """Kinds of data, in order of appearance."""
        return list(dict.fromkeys(row["data"] for row in self.rows))

    @property
    def tests(self) -> list[str]:
        """Tests, in order of appearance."""
        return list(dict.fromkeys(row["test"] for row in self.rows))

    def figures(self, arm: str, data: str, test: str, figure: str) -> dict[Cell, float]:
        """A figure of an arm's cells; cells without it are left out."""
        return {
            Cell(row["data_seed"], row["seed"]): row[figure]
            for row in self._by_arm.get((arm, data, test), [])
            if row.get(figure) is not None
        }

    def mean(self, arm: str, data: str, test: str, figure: str) -> float | None:
        """Mean of a figure over an arm's cells; None where no cell has it."""
        values = self.figures(arm, data, test, figure).values()
        return sum(values) / len(values) if values else None

    def has(self, figure: str) -> bool:
        """Whether any cell has a figure."""
        return any(row.get(figure) is not None for row in self.rows)

    @cached_property
    def _by_arm(self) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
        rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            rows.setdefault((row["arm"], row["data"], row["test"]), []).append(row)
        return rows
