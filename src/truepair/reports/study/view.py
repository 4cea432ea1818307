"""What the questions of a study look at: its results, its curves over training, and which arms are asked about."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import ConfigError, DataError
from truepair.reports.data import Line
from truepair.tasks.study.config import QUESTION_ARMS, QuestionArms, StudyQuestion
from truepair.tasks.study.ranking import AWARE
from truepair.tasks.study.statistics import PairedDifference, RecoveredShare, paired_difference, recovered_share
from truepair.tasks.study.table import StudyTable

MAIN_TEST = "held_out"

KNOWS_TRUTH = "*oracle*"  # arms so called are ceilings, not methods


_CURVE_COLUMNS = ("arm", "data", "epoch", "name", "value")


@dataclass(frozen=True)
class Band:
    """A figure of an arm over training, and how far its runs lie apart.

    Attributes:
        name: of the arm.
        x: epochs.
        low: of the run that is lowest in each.
        mean: over the runs.
        high: of the run that is highest in each.
    """

    name: str
    x: Sequence[float]
    low: Sequence[float]
    mean: Sequence[float]
    high: Sequence[float]


class StudyCurves:
    """Means over cells by arm, data, name and epoch.

    Args:
        rows: epoch (from 1), name and value, with arm and data; one for each cell that has the figure.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        cells: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            cells[row["arm"], row["data"], row["name"]][row["epoch"]].append(row["value"])
        self._means = {
            key: {epoch: sum(values) / len(values) for epoch, values in sorted(epochs.items())}
            for key, epochs in cells.items()
        }
        self._ends = {
            key: [(min(values), max(values)) for _, values in sorted(epochs.items())] for key, epochs in cells.items()
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
            return cls(pq.read_table(path, columns=list(_CURVE_COLUMNS)).to_pylist())
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

    def band(self, arm: str, data: str, name: str) -> list[Band]:
        """An arm's mean figure by epoch between its lowest and its highest run; none where no cell has it."""
        return [
            Band(arm, line.x, [low for low, _ in ends], line.y, [high for _, high in ends])
            for line in self.line(arm, data, name)
            for ends in [self._ends[arm, data, name]]
        ]

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


@dataclass(frozen=True)
class StudyView:
    """Results and curves of a study.

    Attributes:
        table: results.
        curves: figures over training.
        reference: the arm that all are set against.
        ceiling: the arm whose gain over the reference is all there is to recover; empty: there is none.
        questions: arms of the questions, where the study file names them.
    """

    table: StudyTable
    curves: StudyCurves
    reference: str
    ceiling: str
    questions: Mapping[str, QuestionArms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [key for key in self.questions if key not in QUESTION_ARMS]
        if wrong:
            raise ConfigError(f"questions: '{wrong[0]}' is not one of {', '.join(QUESTION_ARMS)}")

    @cached_property
    def test(self) -> str:
        """The test that the answers are about: new pictures of the training's concepts, where the study has it."""
        tests = self.table.tests
        return MAIN_TEST if MAIN_TEST in tests else tests[0]

    def arms_of(self, question: StudyQuestion) -> list[str]:
        """Arms of a question, in the order of the study, without reference and ceiling."""
        asked = self.questions.get(question, QuestionArms())
        patterns = asked.arms or QUESTION_ARMS[question]
        return [
            arm
            for arm in self.table.arms
            if arm not in (self.reference, self.ceiling) and any(fnmatchcase(arm, pattern) for pattern in patterns)
        ]

    def pairs_of(self, question: StudyQuestion) -> list[tuple[str, str]]:
        """Pairs of arms that a question compares, as far as both were run."""
        asked = self.questions.get(question, QuestionArms())
        known = set(self.table.arms)
        return [(first, second) for first, second in asked.pairs if {first, second} <= known]

    @property
    def methods(self) -> list[str]:
        """Arms other than the reference that know no truth of the training pairs."""
        known = (self.reference, self.ceiling)
        return [arm for arm in self.table.arms if arm not in known and not fnmatchcase(arm.lower(), KNOWS_TRUTH)]

    def gain(
        self, arm: str, data: str, *, over: str = "", figure: str = AWARE, test: str = ""
    ) -> PairedDifference | None:
        """What an arm has more than another, by default than the reference.

        Args:
            arm: of the study.
            data: kind of data.
            over: the other arm; empty: the reference.
            figure: that is compared.
            test: empty: the main one.
        """
        test = test or self.test
        other = self.table.figures(over or self.reference, data, test, figure)
        return paired_difference(self.table.figures(arm, data, test, figure), other)

    def recovered(self, arm: str, data: str) -> RecoveredShare | None:
        """Share of the ceiling's gain that an arm reaches on the main test."""
        compared = (arm, self.reference, self.ceiling)
        return recovered_share(*(self.table.figures(name, data, self.test, AWARE) for name in compared))

    def has(self, arm: str, figure: str) -> bool:
        """Whether an arm has a figure on any data."""
        return any(self.mean(arm, data, figure) is not None for data in self.table.data)

    def mean(self, arm: str, data: str, figure: str) -> float | None:
        """Mean of a figure on the main test, over an arm's cells."""
        return self.table.mean(arm, data, self.test, figure)
