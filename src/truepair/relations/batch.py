"""What is known about the pairs of one batch, and what the losses are to make of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from truepair.relations.actions import Action, ItmRole
from truepair.relations.detectors import Detection, Detector, Signals
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import PairSet

Side = Literal["i2t", "t2i"]

SIDES: tuple[Side, Side] = ("i2t", "t2i")


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: what to look for, and what to do about it.

    Attributes:
        detector: Proposes pairs.
        action: Disposes of them.
    """

    detector: Detector
    action: Action


@dataclass(frozen=True)
class Finding:
    """What one rule found in a batch.

    Attributes:
        detection: The cells, their scores, and the side they were found from.
        action: What becomes of them.
    """

    detection: Detection
    action: Action


@dataclass(frozen=True)
class BatchRelations:
    """Relations of B images (rows) and B texts (columns); row i and column i are a pair.

    Own pairs are positives whatever is found. Of several findings on a cell the first counts.

    Attributes:
        image_ids: Image id of each pair, int64 [B].
        caption_ids: Caption id of each pair, int64 [B].
        findings: In the order of the rules.
        symmetric: A finding holds in both directions; otherwise only in the direction(s) whose side found it, as in the
            MAFA program.
    """

    image_ids: Tensor  # [B]
    caption_ids: Tensor  # [B]
    findings: tuple[Finding, ...] = ()
    symmetric: bool = True

    @classmethod
    def detect(cls, signals: Signals, rules: Sequence[Rule], *, symmetric: bool = True) -> "BatchRelations":
        """Apply the rules of a recipe to a batch."""
        relations = cls(signals.image_ids, signals.caption_ids, (), symmetric)
        for rule in rules:
            relations = relations.adding(rule.detector.detect(signals), rule.action)
        return relations

    def adding(self, detection: Detection, action: Action) -> "BatchRelations":
        """The same relations and one finding more, which counts where no earlier one does."""
        if detection.pairs.shape != (self.size, self.size):
            raise ValueError(f"The detection is of shape {detection.pairs.shape}, the batch has {self.size} pairs.")
        others = detection.where(detection.pairs.rows != detection.pairs.columns)
        return replace(self, findings=(*self.findings, Finding(others, action)))

    @property
    def size(self) -> int:
        """Number of pairs B."""
        return len(self.image_ids)

    def positives(self, side: Side) -> PairSet:
        """Positives of one direction with their shares of the target before normalisation, own pairs included.

        Returns:
            Cells as [images, texts] for "i2t", as [texts, images] for "t2i" [B, B].
        """
        own = PairSet.diagonal(self.size, self.size, device=self.image_ids.device)
        found = self._resolved[side]
        return PairSet.union(own, _oriented(found.pairs.with_values(found.shares).where(found.shares > 0), side))

    def weights(self, side: Side) -> PairSet:
        """Candidates of one direction with a weight of their own, 0 leaving them out; oriented as the positives."""
        found = self._resolved[side]
        return _oriented(found.pairs.with_values(found.weights).where(~found.weights.isnan()), side)

    def allowed(self) -> Tensor:
        """True where (image row, text row) may be an ITM negative, whichever side asks; False on own pairs [B, B]."""
        allowed = ~torch.eye(self.size, dtype=torch.bool, device=self.image_ids.device)
        for found in self._resolved.values():
            barred = found.pairs.where(found.roles != int(ItmRole.NEGATIVE))
            allowed[barred.rows, barred.columns] = False
        return allowed

    def matches(self) -> PairSet:
        """Undeclared pairs that were relabelled, as (image row, text row) cells with the detectors' scores [B, B]."""
        found = self._resolved.values()
        return PairSet.union(*(side.pairs.where(side.roles == int(ItmRole.MATCH)) for side in found))

    def counts(self) -> dict[str, int]:
        """Number of cells per detector and action, for example ``"same_image/relabel"``, before precedence."""
        counts: dict[str, int] = {}
        for finding in self.findings:
            key = f"{finding.detection.detector}/{finding.action.name}"
            counts[key] = counts.get(key, 0) + len(finding.detection.pairs)
        return counts

    def record(self, ledger: Ledger, epoch: int, detectors: Collection[str] | None = None) -> None:
        """Append the findings to a ledger: of all detectors or of some (what came from a ledger need not go back)."""
        for finding in self.findings:
            if detectors is not None and finding.detection.detector not in detectors:
                continue
            pairs = finding.detection.pairs
            ledger.record(
                self.image_ids[pairs.rows],
                self.caption_ids[pairs.columns],
                pairs.values,
                detector=finding.detection.detector,
                action=finding.action.name,
                epoch=epoch,
            )

    @cached_property
    def _resolved(self) -> dict[Side, "_Resolved"]:
        """The findings that hold in each direction, each cell once, as [images, texts]."""
        if self.symmetric:
            return dict.fromkeys(SIDES, self._resolve(SIDES[0]))
        return {side: self._resolve(side) for side in SIDES}

    def _resolve(self, side: Side) -> "_Resolved":
        device = self.image_ids.device
        nothing = torch.zeros(0, device=device)
        parts = [(nothing.long(), nothing.long(), nothing, nothing, nothing, nothing.long())]
        for finding in self.findings:
            found = finding.detection
            if not self.symmetric:
                found = found.where(found.by_image if side == "i2t" else found.by_text)
            scores = found.pairs.values.float()
            roles = torch.full_like(found.pairs.rows, int(finding.action.itm))
            shares, weights = finding.action.shares(scores), finding.action.weights(scores)
            parts.append((found.pairs.rows, found.pairs.columns, scores, shares, weights, roles))
        rows, columns, scores, shares, weights, roles = (torch.cat(column) for column in zip(*parts, strict=True))
        pairs = PairSet(rows, columns, scores, (self.size, self.size))
        first = pairs.first_of_each()
        return _Resolved(pairs.where(first), shares[first], weights[first], roles[first])


class _Resolved(NamedTuple):
    """What holds in one direction."""

    pairs: PairSet
    shares: Tensor  # [P]
    weights: Tensor  # [P]
    roles: Tensor  # [P]


def _oriented(pairs: PairSet, side: Side) -> PairSet:
    return pairs if side == "i2t" else pairs.T
