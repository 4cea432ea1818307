"""Detectors propose: which undeclared pairs of a batch may be matches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.relations.detection import Detection
from truepair.relations.evidence import Evidence
from truepair.relations.pairs import PairSet
from truepair.relations.verdict_index import VerdictIndex

_CHUNK = 1024  # rows of a similarity matrix held at once


class Detector(ABC):
    """Proposes cells of the batch matrix. The own pairs of the batch may be among them; they are left out later."""

    name: ClassVar[str]

    @abstractmethod
    def detect(self, evidence: Evidence) -> Detection:
        """The suspected cells of a batch, each once."""


@dataclass(frozen=True)
class SameImage(Detector):
    """Two pairs of one image: each caption is true of the other's copy."""

    name: ClassVar[str] = "same_image"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells whose image has the id of the text's own image; score 1."""
        return _equal(self.name, evidence.image_ids)


@dataclass(frozen=True)
class SameCaption(Detector):
    """Two pairs of one normalised caption text."""

    name: ClassVar[str] = "same_caption"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells whose text equals the image's own caption; score 1."""
        return _equal(self.name, evidence.tensor("caption_keys", self.name))


@dataclass(frozen=True)
class SameGroup(Detector):
    """Two pairs that are declared to show the same: clean data, on which judges are trained, and oracles in a study."""

    name: ClassVar[str] = "same_group"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells whose image is of the text's group; score 1."""
        found = _equal(self.name, evidence.tensor("groups", self.name))
        return found.where(evidence.tensor("groups", self.name)[found.pairs.rows] >= 0)


@dataclass(frozen=True)
class RecordedVerdict(Detector):
    """Pairs on which a ledger has a verdict, from an earlier epoch, an earlier run, or a person.

    Attributes:
        verdicts: Index of the ledger, restricted to the verdicts that count here.
    """

    verdicts: VerdictIndex

    name: ClassVar[str] = "recorded"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells with a verdict; the score is the recorded one."""
        return Detection.mutual(self.name, self.verdicts.within(evidence.image_ids, evidence.caption_ids))


@dataclass(frozen=True)
class JudgedScore(Detector):
    """Pairs that con-D scored within bounds.

    Attributes:
        low: Least score that counts.
        high: Scores from here on do not count; above 1, all do.
    """

    low: float = 0.8
    high: float = 2.0

    name: ClassVar[str] = "con_d"

    def detect(self, evidence: Evidence) -> Detection:
        """Judged cells with a score in [low, high)."""
        if evidence.judged is None:
            raise ConfigError(f"Detector {self.name!r} needs con-D's scores; configure a discriminator or drop it.")
        scores = evidence.judged.values
        return Detection.mutual(self.name, evidence.judged.where((scores >= self.low) & (scores < self.high)))


@dataclass(frozen=True)
class _SimilarityMargin(Detector):
    """Candidates that another model finds about as similar to the anchor as the anchor's own partner.

    Attributes:
        margin: How far below the own pair's similarity a candidate may be and still count.
        strategy: "absolute" compares with own - margin, "relative" with own * (1 - margin).
    """

    margin: float = 0.05
    strategy: Literal["absolute", "relative"] = "absolute"

    def __post_init__(self) -> None:
        if self.strategy not in _BARS:
            raise ConfigError(f"{self.name}.strategy is {self.strategy!r}; use 'absolute' or 'relative'.")

    def _detect(self, images: Tensor, texts: Tensor) -> Detection:
        """Cells above the bar of their image or of their text; the score is the similarity."""
        bar = _BARS[self.strategy]((images * texts).sum(dim=1), self.margin)  # [B]
        parts = []
        for start in range(0, len(images), _CHUNK):
            similarity = images[start : start + _CHUNK] @ texts.T  # [R, B]
            by_image = similarity > bar[start : start + _CHUNK, None]
            by_text = similarity > bar[None, :]
            rows, columns = torch.nonzero(by_image | by_text, as_tuple=True)
            parts.append((rows + start, columns, *(m[rows, columns] for m in (similarity, by_image, by_text))))
        rows, columns, scores, by_image, by_text = (torch.cat(column) for column in zip(*parts, strict=True))
        return Detection(self.name, PairSet(rows, columns, scores, (len(images), len(texts))), by_image, by_text)


@dataclass(frozen=True)
class GuideSimilarity(_SimilarityMargin):
    """Judged by a frozen dual encoder (GISTEmbed's rule, on images and texts)."""

    name: ClassVar[str] = "guide"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells above the bar of their image or of their text; the score is the similarity."""
        images, texts = evidence.tensor("guide_images", self.name), evidence.tensor("guide_texts", self.name)
        return self._detect(images, texts)


@dataclass(frozen=True)
class MomentumSimilarity(_SimilarityMargin):
    """Judged by the momentum copy of the model being trained."""

    name: ClassVar[str] = "momentum"

    def detect(self, evidence: Evidence) -> Detection:
        """Cells above the bar of their image or of their text; the score is the similarity."""
        images, texts = evidence.tensor("momentum_images", self.name), evidence.tensor("momentum_texts", self.name)
        return self._detect(images, texts)


_BARS = {
    "absolute": lambda own, margin: own - margin,
    "relative": lambda own, margin: own * (1.0 - margin),
}


def _equal(detector: str, keys: Tensor) -> Detection:
    """Cells of equal keys, without the own pairs; only rows whose key occurs again are compared."""
    _, group, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    shared = torch.nonzero(counts[group] > 1).squeeze(1)  # rows whose key occurs again
    rows, columns = torch.nonzero(group[shared, None] == group[None, shared], as_tuple=True)
    rows, columns = shared[rows], shared[columns]
    other = rows != columns
    rows, columns = rows[other], columns[other]
    ones = torch.ones(len(rows), device=keys.device)
    return Detection.mutual(detector, PairSet(rows, columns, ones, (len(keys), len(keys))))
