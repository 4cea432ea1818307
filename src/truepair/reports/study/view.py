"""A study as its page looks at it: results, curves, and which arms each question is about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

from truepair.errors import ConfigError
from truepair.reports.study.curves import StudyCurves
from truepair.tasks.study.questions import Question, QuestionArms
from truepair.tasks.study.ranking import AWARE
from truepair.tasks.study.statistics import PairedDifference, RecoveredShare, paired_difference, recovered_share
from truepair.tasks.study.table import StudyTable

# Where the study file names no arms of a question, the terms in their names do.
TERMS: dict[Question, list[str]] = {
    "batches": ["*GRIT*"],
    "density": ["*"],
    "srcl": ["*SRCL*"],
    "mafa": ["*GRIT*", "*ECM*", "*MAFA*", "S-ITC*"],
    "naive": ["*"],
}
KNOWS_TRUTH = "*oracle*"  # arms so called are ceilings, not methods
MAIN_TEST = "held_out"


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
        wrong = [key for key in self.questions if key not in TERMS]
        if wrong:
            raise ConfigError(f"questions: '{wrong[0]}' is not one of {', '.join(TERMS)}")

    @cached_property
    def test(self) -> str:
        """The test that the answers are about: new pictures of the training's concepts, where the study has it."""
        tests = self.table.tests
        return MAIN_TEST if MAIN_TEST in tests else tests[0]

    def arms_of(self, question: Question) -> list[str]:
        """Arms of a question, in the order of the study, without reference and ceiling."""
        asked = self.questions.get(question, QuestionArms())
        patterns = asked.arms or TERMS[question]
        return [
            arm
            for arm in self.table.arms
            if arm not in (self.reference, self.ceiling) and any(fnmatchcase(arm, pattern) for pattern in patterns)
        ]

    def pairs_of(self, question: Question) -> list[tuple[str, str]]:
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
        found = [self.table.figures(name, data, self.test, AWARE) for name in (arm, self.reference, self.ceiling)]
        return recovered_share(*found)

    def has(self, arm: str, figure: str) -> bool:
        """Whether an arm has a figure on any data."""
        return any(self.mean(arm, data, figure) is not None for data in self.table.data)

    def mean(self, arm: str, data: str, figure: str) -> float | None:
        """Mean of a figure on the main test, over an arm's cells."""
        return self.table.mean(arm, data, self.test, figure)
