"""What the doctor found, as it is shown, written and acted upon."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from truepair.data.table import PairTable

Weight = Literal["error", "warning", "note"]
"""How much a finding matters: it stops or spoils a run, it costs quality, or it is good to know."""


@dataclass(frozen=True)
class Example:
    """One case of a finding.

    Attributes:
        text: what there is to say of it, such as a caption or why a picture cannot be read.
        rows: rows whose pictures show it.
        files: the files, or the places in them, that it is about.
    """

    text: str = ""
    rows: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        key: its name in the JSON.
        what: what was counted, in words that follow the number.
        count: how often it was found; None where it was not looked for.
        of: among how many; 0 where there is no such number.
        weight: how much it matters.
        remedy: what to do about it.
        examples: the first of them, or all.
        part: "pictures", "captions" or "splits".
    """

    key: str
    what: str
    count: int | None
    of: int
    weight: Weight
    remedy: str
    part: Literal["pictures", "captions", "splits", "model"]
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class FalseNegatives:
    """How many false negatives a batch holds.

    Attributes:
        batch: N, pairs of a batch.
        cells: cells off its diagonal, N (N - 1).
        certain: expected number of cells that are matches for certain: of the same picture, or the same caption.
        estimated: expected number by a model or by mined pairs; None where none was asked.
        by: what estimated it.
    """

    batch: int
    cells: int
    certain: float
    estimated: float | None = None
    by: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor found.

    Attributes:
        table: the pairs.
        sources: as they were given.
        opened: whether pictures were opened.
        findings: everything that was looked for.
        sizes: facts on picture sizes, quantiles of width, height and their ratio; empty where none was opened.
        captions_a_picture: how many captions -> how many pictures have so many.
        words: quantiles of the number of words of a caption.
        scripts: script -> captions.
        licences: licence as it is stated -> rows.
        pictures: how many distinct pictures there are.
        false_negatives: in a batch.
        tokenizer: which one was asked, and how many tokens it reads; empty for none.
        unknown_tokens: share of tokens that stand for unknown words.
    """

    table: PairTable
    sources: tuple[str, ...]
    opened: bool
    findings: Sequence[Finding]
    sizes: dict[str, dict[str, float]]
    captions_a_picture: dict[int, int]
    words: dict[str, float]
    scripts: dict[str, int]
    licences: dict[str, int]
    pictures: int
    false_negatives: FalseNegatives
    tokenizer: str
    unknown_tokens: float = 0.0

    @property
    def found(self) -> list[Finding]:
        """What was found, the worst first."""
        order = ("error", "warning", "note")
        return sorted((one for one in self.findings if one.count), key=lambda one: order.index(one.weight))

    def count(self, key: str) -> int | None:
        """How often one thing was found; None where it was not looked for."""
        return next(finding.count for finding in self.findings if finding.key == key)

    def as_dict(self) -> dict[str, Any]:
        """Of JSON types; docs/doctor.md says what each key means, and that does not change."""
        return {
            "sources": list(self.sources),
            "rows": len(self.table),
            "pictures": self.pictures,
            "captions": self.table.caption_count,
            "splits": self.table.splits,
            "pictures_opened": self.opened,
            **{finding.key: finding.count for finding in self.findings},
            "captions_a_picture": {str(number): count for number, count in self.captions_a_picture.items()},
            "words_a_caption": self.words,
            "sizes": self.sizes,
            "scripts": self.scripts,
            "licences": self.licences,
            "tokenizer": self.tokenizer,
            "unknown_tokens": self.unknown_tokens,
            "false_negatives": asdict(self.false_negatives),
            "examples": {
                finding.key: [vars(example) for example in finding.examples]
                for finding in self.findings
                if finding.examples
            },
        }


def quantiles(values: NDArray[np.number], digits: int = 0) -> dict[str, float]:
    """Least, median and greatest of some values, and where a twentieth lies beyond; empty for none."""
    if not len(values):
        return {}
    names = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "greatest": 100}
    found = np.percentile(values, list(names.values()))
    return {name: round(float(value), digits) for name, value in zip(names, found, strict=True)}
