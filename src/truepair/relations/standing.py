"""What is known of a ledger's verdicts: how many people's answers they stand on, and the precision that is stated."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from truepair.errors import DataError
from truepair.files import write_json

STANDING_FILE = "standing.json"
"""Lies in the folder of the ledger, beside its verdicts."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A stated precision of the pairs above a threshold, from a random sample of them that people judged.

    The judge and its threshold were fixed before the sample was drawn; its bound is that of Clopper and Pearson
    (Biometrika 26, 1934), one-sided. Of several thresholds, the strictest is tested first and testing ends with the
    first that fails, so that all that pass hold together at the stated confidence (fixed-sequence testing; Angelopoulos
    et al., Learn then Test, 2021).

    Attributes:
        precision: least share of matches that is stated.
        confidence: of the statement.
        threshold: probability from which on pairs are meant.
        pairs: how many pairs are above it that nobody had judged before.
        asked: size of the random sample of them.
        matched: how many of the sample match; an answer "unsure" counts as none.
        lower: lower bound of the share of matches among those pairs.
        judge: name of the judge in the ledger whose probabilities are meant.
        attempt: number of the attempt: each of several has the stated confidence for itself.
        people: who judged the sample.
        date: when, as ISO 8601.
    """

    precision: float
    confidence: float
    threshold: float
    pairs: int
    asked: int
    matched: int
    lower: float
    judge: str
    attempt: int = 1
    people: tuple[str, ...] = ()
    date: str = ""

    def sentence(self) -> str:
        """The certificate in words."""
        attempt = f"; attempt {self.attempt}, each with that confidence" if self.attempt > 1 else ""
        return (
            f"of the {self.pairs:,} pairs above {self.threshold:.3g}, at least {self.precision:.0%} match "
            f"({self.confidence:.0%} confidence; {self.matched:,} of {self.asked:,} of a random sample{attempt})"
        )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the verdicts of a mined ledger stand on.

    Attributes:
        judge: name in the ledger of the judge whose probabilities count.
        answers: how many pairs people judged (yes, no) to fit it; 0 for none.
        labels: pairs whose groups were known, which fitted it; 0 for none.
        certificate: the stated precision; None where none is stated.
        candidates: fingerprint of the mined candidates that the verdicts are on; empty where they may be on others.
    """

    judge: str
    answers: int = 0
    labels: int = 0
    certificate: Certificate | None = None
    candidates: str = ""

    @property
    def judged(self) -> bool:
        """Whether anybody, or a column of groups, said of any pair whether it matches."""
        return self.answers + self.labels > 0

    def sentence(self) -> str:
        """The certificate in words, or what there is in its place."""
        if self.certificate is not None:
            return self.certificate.sentence()
        if not self.judged:
            return "no precision stated: nobody has judged any of its pairs"
        counts = {"answers": self.answers, "pairs of known groups": self.labels}
        fitted = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"no precision stated: its judge was fitted on {fitted}, and no random sample was judged"

    def save(self, ledger: Path) -> None:
        """Write it beside the verdicts."""
        write_json(ledger / STANDING_FILE, asdict(self))

    @classmethod
    def load(cls, ledger: Path) -> "Standing | None":
        """Read it; None where a ledger has none: that of a run, or one mined by a judge of clean groups.

        Raises:
            DataError: it is damaged.
        """
        file = ledger / STANDING_FILE
        if not file.is_file():
            return None
        try:
            stated: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found = stated.pop("certificate")
            if found is not None:
                found = Certificate(**(found | {"people": tuple(found["people"])}))
            return cls(**stated, certificate=found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is damaged ({error}); run truepair review again, or remove it") from error
