"""Signals and detectors: what may be read about a batch, and which undeclared pairs it makes probable matches."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.randomness import GOLDEN, splitmix64, unit_interval
from truepair.relations.ledger import VerdictIndex, open_index
from truepair.relations.pairs import PairSet
from truepair.relations.similarity import paired_similarities, similarities
from truepair.relations.zones import Zone, Zones

Signal = Tensor | PairSet | tuple[Tensor, Tensor]

_CHUNK = 1024  # rows of a similarity matrix held at once


class Signals:
    """What detectors may read about a batch of B pairs. One given as a function is computed when first asked for.

    ======================  ============================================================================================
    ``caption_keys``        key of each normalised caption text, int64 [B]
    ``groups``              what each pair shows, where that is declared, int64 [B]; below 0 where it is not
    ``guide``               image and text features of a frozen dual encoder, L2-normalised ([B, G], [B, G]); those of
                            images with a query axis are [B, Q, G]
    ``momentum``            image and text features of the momentum model, L2-normalised ([B, E], [B, E])
    ``weights``             SRCL's weight of each text as a negative of each image, and of each image as a negative of
                            each text, both as images by texts ([B, B], [B, B])
    ``judged``              a judge's match probability of the (image row, text row) cells it was asked about [B, B]
    ======================  ============================================================================================

    Ids, keys, groups and what a judge says are on the host, features and weights on any device.

    Args:
        image_ids: Image id of each pair, int64 [B].
        caption_ids: Caption id of each pair, int64 [B].
        **signals: As in the table, or functions that return it.

    Raises:
        ValueError: A signal is of another number of pairs.
    """

    def __init__(self, image_ids: Tensor, caption_ids: Tensor, **signals: Signal | Callable[[], Signal]) -> None:
        self.image_ids = image_ids
        self.caption_ids = caption_ids
        self._require_size("caption_ids", caption_ids)
        self._given = signals
        self._known: dict[str, Signal] = {}
        for name, signal in signals.items():
            if not callable(signal):
                self._keep(name, signal)

    @property
    def size(self) -> int:
        """Number of pairs B."""
        return len(self.image_ids)

    def tensor(self, name: str, asked_by: str) -> Tensor:
        """A signal that is one tensor [B].

        Raises:
            ConfigError: The batch does not have it.
        """
        signal = self._get(name, asked_by)
        assert isinstance(signal, Tensor)
        return signal

    def both(self, name: str, asked_by: str) -> tuple[Tensor, Tensor]:
        """A signal that is two tensors, of images and of texts [B, ...].

        Raises:
            ConfigError: The batch does not have it.
        """
        signal = self._get(name, asked_by)
        assert isinstance(signal, tuple)
        return signal

    def cells(self, name: str, asked_by: str) -> PairSet:
        """A signal about some (image row, text row) cells [B, B].

        Raises:
            ConfigError: The batch does not have it.
        """
        signal = self._get(name, asked_by)
        assert isinstance(signal, PairSet)
        return signal

    def _get(self, name: str, asked_by: str) -> Signal:
        if name not in self._known:
            given = self._given.get(name)
            if given is None:
                raise ConfigError(f"detector '{asked_by}' needs the signal '{name}', which this run has not; drop it")
            assert callable(given)
            self._keep(name, given())
        return self._known[name]

    def _keep(self, name: str, signal: Signal) -> None:
        if isinstance(signal, PairSet):
            if signal.shape != (self.size, self.size):
                raise ValueError(f"{name} is of shape {signal.shape}, the batch has {self.size} pairs.")
        else:
            for tensor in signal if isinstance(signal, tuple) else (signal,):
                self._require_size(name, tensor)
        self._known[name] = signal

    def _require_size(self, name: str, tensor: Tensor) -> None:
        if len(tensor) != self.size:
            raise ValueError(f"{name} has {len(tensor)} rows, the batch has {self.size} pairs.")


class Detector(ABC):
    """Finds cells of the batch matrix that may match. Its fields are what a rule of a recipe may state beside it.

    Own pairs may be among the cells; they are left out later.

    Attributes:
        name: As a rule names it.
        needs: Signals that it reads.
        declared: It finds only pairs that ids, texts and groups already declare to match.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    declared: ClassVar[bool] = False

    @abstractmethod
    def find(self, signals: Signals) -> PairSet:
        """The cells found, each once, with the sides that found them; values are scores, 1 is certain [B, B].

        They are on the host.
        """


@dataclass(frozen=True)
class SameImage(Detector):
    """Two pairs of one image: each caption is true of the other's copy."""

    name: ClassVar[str] = "same_image"
    declared: ClassVar[bool] = True

    def find(self, signals: Signals) -> PairSet:
        """Cells whose image has the id of the text's own image; score 1 [B, B]."""
        return _equal(signals.image_ids)


@dataclass(frozen=True)
class SameCaption(Detector):
    """Two pairs of one normalised caption text."""

    name: ClassVar[str] = "same_caption"
    needs: ClassVar[tuple[str, ...]] = ("caption_keys",)
    declared: ClassVar[bool] = True

    def find(self, signals: Signals) -> PairSet:
        """Cells whose text equals the image's own caption; score 1 [B, B]."""
        return _equal(signals.tensor("caption_keys", self.name))


@dataclass(frozen=True)
class SameGroup(Detector):
    """Two pairs that are declared to show the same: clean data, on which judges are trained, and oracles in a study."""

    name: ClassVar[str] = "same_group"
    needs: ClassVar[tuple[str, ...]] = ("groups",)
    declared: ClassVar[bool] = True

    def find(self, signals: Signals) -> PairSet:
        """Cells whose image is of the text's group; score 1 [B, B]."""
        groups = signals.tensor("groups", self.name)
        found = _equal(groups)
        return found.where(groups[found.rows] >= 0)


@dataclass(frozen=True)
class _Verdicts(Detector):
    """Pairs whose probability of matching lies in a zone.

    Attributes:
        zone: "match", "doubtful" or "negative".
        low: Probabilities below it are negatives.
        high: Probabilities from here on are matches.
    """

    zone: Literal["match", "doubtful", "negative"] = "match"
    low: float | None = None
    high: float | None = None

    usual: ClassVar[Zones] = Zones()

    def __post_init__(self) -> None:
        if self.zone not in ("match", "doubtful", "negative"):
            raise ConfigError(f"{self.name}.zone is '{self.zone}'; give match, doubtful or negative")
        _ = self.zones  # refuses thresholds out of order

    @property
    def zones(self) -> Zones:
        """Both thresholds; one that is not stated is the usual one."""
        low, high = self.low, self.high
        return Zones(self.usual.low if low is None else low, self.usual.high if high is None else high)

    def contains(self, probabilities: Tensor) -> Tensor:
        """Whether probabilities [P] lie in the zone, bool [P]."""
        return self.zones.of(probabilities) == Zone[self.zone.upper()]


@dataclass(frozen=True)
class Judged(_Verdicts):
    """Pairs that the judge of the batch (``ecm``, asked about all) puts into a zone."""

    low: float = 0.5
    high: float = 0.8

    name: ClassVar[str] = "judge"
    needs: ClassVar[tuple[str, ...]] = ("judged",)

    def find(self, signals: Signals) -> PairSet:
        """Judged cells of the zone; the score is the probability [B, B]."""
        judged = signals.cells("judged", self.name)
        return judged.where(self.contains(judged.values))


@dataclass(frozen=True)
class Recorded(_Verdicts):
    """Pairs that a ledger puts into a zone: mined beforehand, judged in an earlier run, or by a person.

    Where neither threshold is stated, a run asks what the ledger stands on (:mod:`truepair.methods.standing`): those of
    a certificate, where there is one.

    Attributes:
        ledger: Folder or file of the verdicts.
        by: "people" or "judges": only their verdicts; absent for both. On a pair that people judged, only theirs count.
    """

    ledger: str = ""
    by: Literal["people", "judges"] | None = None

    name: ClassVar[str] = "recorded"
    usual: ClassVar[Zones] = Zones(0.1, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ledger:
            raise ConfigError("detector 'recorded' needs ledger, the folder of an earlier run's or a mined ledger")

    @cached_property
    def verdicts(self) -> VerdictIndex:
        """The ledger, read once.

        Raises:
            DataError: There is none, or it cannot be read.
        """
        return open_index(self.ledger)

    def hear(self, verdicts: VerdictIndex) -> None:
        """Take the verdicts of the ledger from here, such as those that are brought to pictures of a table."""
        self.__dict__["verdicts"] = verdicts

    def find(self, signals: Signals) -> PairSet:
        """Cells with a verdict of the zone; the score is the recorded probability [B, B]."""
        recorded = self.verdicts.within(signals.image_ids, signals.caption_ids, by=self.by)
        return recorded.where(self.contains(recorded.values))


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

    def _above_bar(self, images: Tensor, texts: Tensor) -> PairSet:
        """Cells above the bar of their image or of their text; the score is the similarity [B, B]."""
        bar = _BARS[self.strategy](paired_similarities(images, texts), self.margin)  # [B]
        parts = []
        for start in range(0, len(images), _CHUNK):
            similarity = similarities(images[start : start + _CHUNK], texts)  # [R, B]
            by_image = similarity > bar[start : start + _CHUNK, None]
            by_text = similarity > bar[None, :]
            rows, columns = torch.nonzero(by_image | by_text, as_tuple=True)
            parts.append((rows + start, columns, *(m[rows, columns] for m in (similarity, by_image, by_text))))
        rows, columns, scores, by_image, by_text = (torch.cat(column) for column in zip(*parts, strict=True))
        return PairSet(rows, columns, scores, (len(images), len(texts)), by_image, by_text).on_host()


@dataclass(frozen=True)
class GuideSimilarity(_SimilarityMargin):
    """Judged by a frozen dual encoder (GISTEmbed's rule, on images and texts), or by one side of it.

    Attributes:
        compare: "across" compares image i with text j; "images" and "texts" compare those of pair i with those of pair
            j, and since anything is wholly similar to itself, the bar is 1 less the margin.
    """

    compare: Literal["across", "images", "texts"] = "across"

    name: ClassVar[str] = "guide"
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare not in ("across", "images", "texts"):
            raise ConfigError(f"guide.compare is {self.compare!r}; use 'across', 'images' or 'texts'.")

    def find(self, signals: Signals) -> PairSet:
        """Cells above the bar of their image or of their text; the score is the similarity [B, B]."""
        images, texts = signals.both("guide", self.name)
        if self.compare == "across":
            return self._above_bar(images, texts)
        side = images if self.compare == "images" else texts
        if side.dim() == 3:
            raise ConfigError(
                "guide.compare 'images' compares one feature an image, and this guide has several queries; set it to "
                "'across' or 'texts', or give another relations.guide_model"
            )
        return self._above_bar(side, side)


@dataclass(frozen=True)
class MomentumSimilarity(_SimilarityMargin):
    """Judged by the momentum copy of the model being trained."""

    name: ClassVar[str] = "momentum"
    needs: ClassVar[tuple[str, ...]] = ("momentum",)

    def find(self, signals: Signals) -> PairSet:
        """Cells above the bar of their image or of their text; the score is the similarity [B, B]."""
        return self._above_bar(*signals.both("momentum", self.name))


@dataclass(frozen=True)
class LowWeight(Detector):
    """Negatives that SRCL would give little weight; masked, they are removed instead of regulated (SRCL, table 5).

    Attributes:
        below: Weights from here on do not count.
    """

    below: float = 0.2

    name: ClassVar[str] = "weight"
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def find(self, signals: Signals) -> PairSet:
        """Cells below the bar on either side; the score is 1 less the smaller weight, at least 0 [B, B]."""
        by_image, by_text = signals.both("weights", self.name)
        rows, columns = torch.nonzero((by_image < self.below) | (by_text < self.below), as_tuple=True)
        lesser = torch.minimum(by_image, by_text)[rows, columns]
        found_by = (weights[rows, columns] < self.below for weights in (by_image, by_text))
        return PairSet(rows, columns, (1.0 - lesser).clamp(min=0.0), (signals.size, signals.size), *found_by).on_host()


@dataclass(frozen=True)
class RandomPairs(Detector):
    """Random pairs: a control that finds as many as another detector, and is right by chance alone.

    Attributes:
        rate: Share of all pairs. A pair's lot is a hash of its ids, the same in every batch and epoch.
    """

    rate: float = 0.0

    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ConfigError(f"random.rate is {self.rate}; use a number from 0 to 1.")

    def find(self, signals: Signals) -> PairSet:
        """Cells whose lot is drawn; score 1 [B, B]."""
        lots = _lots(signals.image_ids[:, None], signals.caption_ids[None, :])  # [B, B]
        rows, columns = torch.nonzero(lots < self.rate, as_tuple=True)
        return PairSet(rows, columns, torch.ones(len(rows), device=rows.device), (signals.size, signals.size))


_BARS = {
    "absolute": lambda own, margin: own - margin,
    "relative": lambda own, margin: own * (1.0 - margin),
}


def _lots(first: Tensor, second: Tensor) -> Tensor:
    """A number in [0, 1) for each pair of ids, int64 of shapes that broadcast; published runs depend on its bits."""
    return unit_interval(splitmix64(first * GOLDEN + second * (0xD1B54A32D192ED03 - (1 << 64))))


def _equal(keys: Tensor) -> PairSet:
    """Cells of equal keys [B], without the own pairs; only rows whose key occurs again are compared."""
    _, group, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    if len(counts) == len(keys):
        return PairSet.empty(len(keys), len(keys), device=keys.device)
    shared = torch.nonzero(counts[group] > 1).squeeze(1)  # rows whose key occurs again
    rows, columns = torch.nonzero(group[shared, None] == group[None, shared], as_tuple=True)
    rows, columns = shared[rows], shared[columns]
    other = torch.nonzero(rows != columns).squeeze(1)  # once, not for each
    rows, columns = rows[other], columns[other]
    return PairSet(rows, columns, torch.ones(len(rows), device=keys.device), (len(keys), len(keys)))
