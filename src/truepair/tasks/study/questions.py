"""Which arms of a study answer which question of its page."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from truepair.errors import ConfigError

Question = Literal["batches", "density", "srcl", "mafa", "naive"]
QUESTIONS: tuple[Question, ...] = get_args(Question)


@dataclass(frozen=True, kw_only=True)
class QuestionArms:
    """The arms that a question's figures show, and those it compares.

    Attributes:
        arms: names, or patterns of names with ``*`` and ``?``; empty: found by the terms in the names of the arms.
        pairs: two names each: what is gained by the first instead of the second, cell by cell.
    """

    arms: list[str] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.pairs if len(pair) != 2]
        if wrong:
            raise ConfigError(f"questions: pairs holds {wrong[0]!r}; give two arms each")
