"""Ragged lists of candidates, one list a query, in two flat arrays."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatchLists:
    """For each of Q queries the candidates it is related to, in compressed sparse row form.

    Attributes:
        offsets: int64 [Q + 1]; the list of query q is ``members[offsets[q]:offsets[q + 1]]``.
        members: int64 [M]; candidate numbers, ascending within a list.
    """

    offsets: Tensor  # [Q + 1]
    members: Tensor  # [M]

    @classmethod
    def from_pairs(cls, queries: Tensor, members: Tensor, count: int) -> "MatchLists":
        """Group pairs by query.

        Args:
            queries: int64 [M], each in ``0..count - 1``.
            members: int64 [M], the candidate of each pair.
            count: number of queries Q.
        """
        order = torch.argsort(members, stable=True)
        order = order[torch.argsort(queries[order], stable=True)]
        sizes = torch.bincount(queries, minlength=count)  # [Q]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return cls(offsets=offsets, members=members[order])

    @property
    def sizes(self) -> Tensor:
        """Length of each list, int64 [Q]."""
        return self.offsets[1:] - self.offsets[:-1]

    def select(self, queries: Tensor) -> "MatchLists":
        """The lists of some queries, in the order given.

        Args:
            queries: int64 [q].
        """
        sizes = self.sizes[queries]  # [q]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        owner = torch.repeat_interleave(torch.arange(len(queries)), sizes)  # [m]
        position = torch.arange(len(owner)) - offsets[owner] + self.offsets[queries][owner]
        return MatchLists(offsets=offsets, members=self.members[position])

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """All lists as (query [M], position within its list [M], candidate [M])."""
        query = torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)
        position = torch.arange(len(self.members)) - self.offsets[query]
        return query, position, self.members
