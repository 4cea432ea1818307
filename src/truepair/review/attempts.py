"""Attempts at a certificate: each is a line of the answers' file, so that it goes on after a restart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from truepair.mining.certification import Plan, Progress, Rung, lower_bound, progress_of
from truepair.relations.standing import Certificate


@dataclass(frozen=True)
class Attempt:
    """A plan that was begun.

    Attributes:
        number: of all attempts in this folder.
        time: when it was begun.
        judge: name of the judge that is to be certified.
        candidates: fingerprint of the candidates that the plan's numbers mean.
        plan: thresholds and samples.
    """

    number: int
    time: str
    judge: str
    candidates: str
    plan: Plan

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> "Attempt":
        """Read what :meth:`line` gave."""
        rungs = tuple(
            Rung(rung["threshold"], rung["pairs"], tuple(rung["sample"]), rung["misses"]) for rung in line["rungs"]
        )
        plan = Plan(line["precision"], line["confidence"], rungs)
        return cls(line["attempt"], line["time"], line["judge"], line["candidates"], plan)

    def line(self) -> dict[str, Any]:
        """As a line of the answers' file."""
        return {
            "kind": "sample",
            "time": self.time,
            "attempt": self.number,
            "judge": self.judge,
            "candidates": self.candidates,
            "precision": self.plan.precision,
            "confidence": self.plan.confidence,
            "rungs": [
                {
                    "threshold": rung.threshold,
                    "pairs": rung.pairs,
                    "misses": rung.misses,
                    "sample": list(rung.sample),
                }
                for rung in self.plan.rungs
            ],
        }

    @cached_property
    def numbers(self) -> frozenset[int]:
        """The candidates of all samples."""
        return frozenset(number for rung in self.plan.rungs for number in rung.sample)

    def progress(self, found: Mapping[int, bool]) -> Progress:
        """How far it has come.

        Args:
            found: whether each answered candidate matches.
        """
        return progress_of(self.plan, found)

    def certificate(self, found: Mapping[int, bool], people: tuple[str, ...]) -> Certificate | None:
        """What can be stated of the loosest threshold that holds; None where none does, or not yet.

        Args:
            found: whether each answered candidate matches.
            people: who judged the samples.
        """
        passed = self.progress(found).passed
        if not passed:
            return None
        rung = self.plan.rungs[passed - 1]
        matched = sum(found[number] for number in rung.sample)
        return Certificate(
            precision=self.plan.precision,
            confidence=self.plan.confidence,
            threshold=rung.threshold,
            pairs=rung.pairs,
            asked=len(rung.sample),
            matched=matched,
            lower=lower_bound(matched, len(rung.sample), self.plan.confidence),
            judge=self.judge,
            attempt=self.number,
            people=people,
            date=self.time,
        )

    def state(self, found: Mapping[int, bool], people: tuple[str, ...]) -> dict[str, Any]:
        """How it stands, for people; ``held`` is None while pairs are left to ask."""
        progress = self.progress(found)
        issued = self.certificate(found, people)
        sentence = "" if issued is None else issued.sentence()
        if progress.over and issued is None:
            missed = progress.asked - progress.matched
            sentence = (
                f"no certificate for {self.plan.precision:.0%}: {missed} of {progress.asked} of the random sample do "
                f"not match, where at most {progress.rung.misses} of {len(progress.rung.sample)} may; more answers "
                "make the judge better"
            )
        return {
            "precision": self.plan.precision,
            "confidence": self.plan.confidence,
            "attempt": self.number,
            "asked": progress.asked,
            "of": len(progress.rung.sample),
            "matched": progress.matched,
            "held": (issued is not None) if progress.over else None,
            "sentence": sentence,
        }
