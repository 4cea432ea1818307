"""Detectors propose: which undeclared pairs of a batch may be matches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.randomness import GOLDEN, splitmix64, unit_interval
from truepair.relations.ledger import VerdictIndex
from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class Detection:
    """Cells of the batch matrix that a detector suspects to match.

    Attributes:
        detector: Name of the detector, as it stands in the ledger.
        pairs: The (image row, text row) cells; values are scores, by convention 1 = a match for certain [B, B].
        by_image: Whether the image's side found the cell, bool [P].
        by_text: Whether the text's side found it, bool [P].
    """

    detector: str
    pairs: PairSet
    by_image: Tensor  # [P]
    by_text: Tensor  # [P]

    @classmethod
    def mutual(cls, detector: str, pairs: PairSet) -> "Detection":
        """A finding that has no side."""
        both = torch.ones(len(pairs), dtype=torch.bool, device=pairs.rows.device)
        return cls(detector, pairs, both, both)

    def where(self, keep: Tensor) -> "Detection":
        """The cells chosen by a bool mask or an index [P]."""
        return Detection(self.detector, self.pairs.where(keep), self.by_image[keep], self.by_text[keep])


@dataclass(frozen=True, kw_only=True)
class Signals:
    """A batch of B pairs and what is known about it. Only the ids are needed by all; the rest as the detectors ask.

    Attributes:
        image_ids: Image id of each pair, int64 [B].
        caption_ids: Caption id of each pair, int64 [B].
        caption_keys: Key of each normalised caption text, int64 [B].
        groups: What each pair shows, where that is declared, int64 [B]; below 0 where it is not.
        guide_images: Image features of a frozen dual encoder, L2-normalised [B, G].
        guide_texts: Text features of the same [B, G].
        momentum_images: Image features of the momentum model, L2-normalised [B, E].
        momentum_texts: Text features of the same [B, E].
        judged: con-D's match probability of the (image row, text row) cells it was asked about [B, B].
        weights_by_image: SRCL's weight of each text as a negative of each image [B, B].
        weights_by_text: Its weight of each image as a negative of each text, in the same layout [B, B].
    """

    image_ids: Tensor  # [B]
    caption_ids: Tensor  # [B]
    caption_keys: Tensor | None = None  # [B]
    groups: Tensor | None = None  # [B]
    guide_images: Tensor | None = None  # [B, G]
    guide_texts: Tensor | None = None  # [B, G]
    momentum_images: Tensor | None = None  # [B, E]
    momentum_texts: Tensor | None = None  # [B, E]
    judged: PairSet | None = None
    weights_by_image: Tensor | None = None  # [B, B]
    weights_by_text: Tensor | None = None  # [B, B]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and len(value) != self.size:
                raise ValueError(f"{field.name} has {len(value)} rows, the batch has {self.size} pairs.")
        if self.judged is not None and self.judged.shape != (self.size, self.size):
            raise ValueError(f"judged is of shape {self.judged.shape}, the batch has {self.size} pairs.")

    @property
    def size(self) -> int:
        """Number of pairs B."""
        return len(self.image_ids)

    def tensor(self, name: str, asked_by: str) -> Tensor:
        """A tensor a detector cannot do without.

        Raises:
            ConfigError: If the batch does not carry it.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ConfigError(f"Detector {asked_by!r} needs {name}, which this run lacks; drop the detector.")
        return value


_CHUNK = 1024  # rows of a similarity matrix held at once


class Detector(ABC):
    """Proposes cells of the batch matrix. The own pairs of the batch may be among them; they are left out later."""

    name: ClassVar[str]

    @abstractmethod
    def detect(self, signals: Signals) -> Detection:
        """The suspected cells of a batch, each once."""


@dataclass(frozen=True)
class SameImage(Detector):
    """Two pairs of one image: each caption is true of the other's copy."""

    name: ClassVar[str] = "same_image"

    def detect(self, signals: Signals) -> Detection:
        """Cells whose image has the id of the text's own image; score 1."""
        return _equal(self.name, signals.image_ids)


@dataclass(frozen=True)
class SameCaption(Detector):
    """Two pairs of one normalised caption text."""

    name: ClassVar[str] = "same_caption"

    def detect(self, signals: Signals) -> Detection:
        """Cells whose text equals the image's own caption; score 1."""
        return _equal(self.name, signals.tensor("caption_keys", self.name))


@dataclass(frozen=True)
class SameGroup(Detector):
    """Two pairs that are declared to show the same: clean data, on which judges are trained, and oracles in a study."""

    name: ClassVar[str] = "same_group"

    def detect(self, signals: Signals) -> Detection:
        """Cells whose image is of the text's group; score 1."""
        found = _equal(self.name, signals.tensor("groups", self.name))
        return found.where(signals.tensor("groups", self.name)[found.pairs.rows] >= 0)


@dataclass(frozen=True)
class RecordedVerdict(Detector):
    """Pairs on which a ledger has a verdict, from an earlier epoch, an earlier run, or a person.

    Attributes:
        verdicts: Index of the ledger, restricted to the verdicts that count here.
    """

    verdicts: VerdictIndex

    name: ClassVar[str] = "recorded"

    def detect(self, signals: Signals) -> Detection:
        """Cells with a verdict; the score is the recorded one."""
        return Detection.mutual(self.name, self.verdicts.within(signals.image_ids, signals.caption_ids))


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

    def detect(self, signals: Signals) -> Detection:
        """Judged cells with a score in [low, high)."""
        if signals.judged is None:
            raise ConfigError(f"Detector {self.name!r} needs con-D's scores; configure a discriminator or drop it.")
        scores = signals.judged.values
        return Detection.mutual(self.name, signals.judged.where((scores >= self.low) & (scores < self.high)))


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
    """Judged by a frozen dual encoder (GISTEmbed's rule, on images and texts), or by one side of it.

    Attributes:
        compare: "across" compares image i with text j; "images" and "texts" compare those of pair i with those of pair
            j, and since anything is wholly similar to itself, the bar is 1 less the margin.
    """

    compare: Literal["across", "images", "texts"] = "across"

    name: ClassVar[str] = "guide"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare not in _COMPARED:
            raise ConfigError(f"guide.compare is {self.compare!r}; use 'across', 'images' or 'texts'.")

    def detect(self, signals: Signals) -> Detection:
        """Cells above the bar of their image or of their text; the score is the similarity."""
        return self._detect(*(signals.tensor(name, self.name) for name in _COMPARED[self.compare]))


@dataclass(frozen=True)
class LowWeight(Detector):
    """Negatives that SRCL would give little weight; masked, they are removed instead of regulated (SRCL, table 5).

    Attributes:
        below: Weights from here on do not count.
    """

    below: float

    name: ClassVar[str] = "weight"

    def detect(self, signals: Signals) -> Detection:
        """Cells below the bar on either side; the score is 1 less the smaller weight, at least 0."""
        by_image, by_text = (signals.tensor(f"weights_by_{side}", self.name) for side in ("image", "text"))
        rows, columns = torch.nonzero((by_image < self.below) | (by_text < self.below), as_tuple=True)
        lesser = torch.minimum(by_image, by_text)[rows, columns]
        pairs = PairSet(rows, columns, (1.0 - lesser).clamp(min=0.0), (signals.size, signals.size))
        found_by = (weights[rows, columns] < self.below for weights in (by_image, by_text))
        return Detection(self.name, pairs, *found_by)


@dataclass(frozen=True)
class RandomPairs(Detector):
    """Any pairs, by lot: a control that finds as many as another detector, and is right by chance alone.

    Attributes:
        rate: Share of all pairs. A pair's lot is a hash of its ids, the same in every batch and epoch.
    """

    rate: float

    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ConfigError(f"random.rate is {self.rate}; use a number from 0 to 1.")

    def detect(self, signals: Signals) -> Detection:
        """Cells whose lot is drawn; score 1."""
        lots = _lots(signals.image_ids[:, None], signals.caption_ids[None, :])  # [B, B]
        rows, columns = torch.nonzero(lots < self.rate, as_tuple=True)
        ones = torch.ones(len(rows), device=rows.device)
        return Detection.mutual(self.name, PairSet(rows, columns, ones, (signals.size, signals.size)))


@dataclass(frozen=True)
class MomentumSimilarity(_SimilarityMargin):
    """Judged by the momentum copy of the model being trained."""

    name: ClassVar[str] = "momentum"

    def detect(self, signals: Signals) -> Detection:
        """Cells above the bar of their image or of their text; the score is the similarity."""
        images, texts = signals.tensor("momentum_images", self.name), signals.tensor("momentum_texts", self.name)
        return self._detect(images, texts)


_BARS = {
    "absolute": lambda own, margin: own - margin,
    "relative": lambda own, margin: own * (1.0 - margin),
}


_COMPARED = {
    "across": ("guide_images", "guide_texts"),
    "images": ("guide_images", "guide_images"),
    "texts": ("guide_texts", "guide_texts"),
}


def _lots(first: Tensor, second: Tensor) -> Tensor:
    """A number in [0, 1) for each pair of ids, int64 of shapes that broadcast; published runs depend on its bits."""
    return unit_interval(splitmix64(first * GOLDEN + second * (0xD1B54A32D192ED03 - (1 << 64))))


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
