"""What is known about the pairs of one batch, and what the losses are to make of it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.devices import sent
from truepair.relations.actions import Action, ItmRole
from truepair.relations.pairs import SIDES, PairSet, Side


@dataclass(frozen=True)
class Finding:
    """What one rule found in a batch.

    Attributes:
        detector: Name of what found it.
        pairs: The (image row, text row) cells, their scores, and the sides that found them [B, B].
        action: What becomes of them.
    """

    detector: str
    pairs: PairSet
    action: Action


@dataclass(frozen=True)
class BatchRelations:
    """Relations of B images (rows) and B texts (columns); row i and column i are a pair.

    Own pairs are positives whatever is found. Of several findings on a cell the first counts.

    Attributes:
        size: Number of pairs B.
        findings: In the order of the rules.
        symmetric: A finding holds in both directions; otherwise only in the direction(s) whose side found it, as in the
            MAFA program.
        device: Where the findings are: the host, so that combining them waits for no GPU.
    """

    size: int
    findings: tuple[Finding, ...] = ()
    symmetric: bool = True
    device: torch.device | str = "cpu"

    def adding(self, detector: str, pairs: PairSet, action: Action) -> "BatchRelations":
        """The same relations and one finding more, which counts where no earlier one does.

        Raises:
            ValueError: The cells are those of a batch of another size.
        """
        if pairs.shape != (self.size, self.size):
            raise ValueError(f"The finding is of shape {pairs.shape}, the batch has {self.size} pairs.")
        others = pairs.where(pairs.rows != pairs.columns)
        return replace(self, findings=(*self.findings, Finding(detector, others, action)))

    def positives(self, side: Side) -> PairSet:
        """Positives of one direction with their shares of the target before normalisation, own pairs included.

        Returns:
            Cells as [images, texts] for "i2t", as [texts, images] for "t2i" [B, B].
        """
        own = PairSet.diagonal(self.size, self.size, device=self.device)
        found = self._resolved[side]
        if not len(found.pairs):
            return own
        return PairSet.union(own, _oriented(found.pairs.with_values(found.shares).where(found.shares > 0), side))

    def weights(self, side: Side) -> PairSet:
        """Candidates of one direction with a weight of their own, 0 leaving them out; oriented as the positives."""
        found = self._resolved[side]
        return _oriented(found.pairs.with_values(found.weights).where(~found.weights.isnan()), side)

    def allowed(self, device: torch.device | str | None = None) -> Tensor:
        """True where (image row, text row) may be an ITM negative, whichever side asks; False on own pairs [B, B].

        Args:
            device: Where the matrix is wanted; where the findings are when absent.
        """
        device = self.device if device is None else device
        allowed = ~torch.eye(self.size, dtype=torch.bool, device=device)
        for found in self._resolved.values():
            barred = found.pairs.where(found.roles != int(ItmRole.NEGATIVE))
            allowed.view(-1).index_fill_(0, sent(barred.linear, device), False)
        return allowed

    def matches(self) -> PairSet:
        """Undeclared pairs that were relabelled, as (image row, text row) cells with the detectors' scores [B, B]."""
        found = self._resolved.values()
        return PairSet.union(*(side.pairs.where(side.roles == int(ItmRole.MATCH)) for side in found))

    def counts(self) -> dict[str, int]:
        """Number of cells per detector and action, for example ``"same_image/relabel"``, before precedence."""
        counts: dict[str, int] = {}
        for finding in self.findings:
            key = f"{finding.detector}/{finding.action.name}"
            counts[key] = counts.get(key, 0) + len(finding.pairs)
        return counts

    @cached_property
    def _resolved(self) -> dict[Side, "_Resolved"]:
        """The findings that hold in each direction, each cell once, as [images, texts]."""
        if self.symmetric:
            return dict.fromkeys(SIDES, self._resolve(SIDES[0]))
        return {side: self._resolve(side) for side in SIDES}

    def _resolve(self, side: Side) -> "_Resolved":
        nothing = torch.zeros(0, device=self.device)
        parts = [(nothing.long(), nothing.long(), nothing, nothing, nothing, nothing.long())]
        for finding in self.findings:
            found = finding.pairs if self.symmetric else finding.pairs.found_by(side)
            scores = found.values.float()
            roles = torch.full_like(found.rows, int(finding.action.itm))
            shares, weights = finding.action.shares(scores), finding.action.weights(scores)
            parts.append((found.rows, found.columns, scores, shares, weights, roles))
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
