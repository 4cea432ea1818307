"""A list of answers as a tree of their tokens: each distinct beginning is one node."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from truepair.errors import DataError


class AnswerTrie:
    """A answers over N nodes. Node 0 is the root, the start token; a path from it to a leaf spells an answer.

    Args:
        answers: tokens of each answer, the end token last, the start token left out.
        start: the start token.

    Raises:
        DataError: an answer without a token of its own, or no answers.

    Attributes:
        tokens: token of each node, int64 [N].
        parents: node before each node, int64 [N]; that of the root is the root.
        depths: tokens before each node, int64 [N].
        inner: whether other nodes follow, bool [N].
        paths: nodes of each answer after the root, int64 [A, T], 0 behind the end.
    """

    def __init__(self, answers: Sequence[Sequence[int]], start: int) -> None:
        if not answers:
            raise DataError("there are no answers to rank; check the answer list")
        tokens, parents, depths = [start], [0], [0]
        places: dict[tuple[int, int], int] = {}
        rows: list[list[int]] = []
        for number, answer in enumerate(answers):
            if len(answer) < 2:
                raise DataError(f"answer {number} of the answer list has no token; take it out")
            node, row = 0, []
            for depth, token in enumerate(answer, 1):
                child = places.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depth)
                node = child
                row.append(node)
            rows.append(row)
        self.tokens, self.parents, self.depths = torch.tensor(tokens), torch.tensor(parents), torch.tensor(depths)
        self.inner = torch.zeros(len(tokens), dtype=torch.bool)
        self.inner[self.parents] = True
        self.paths = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for number, row in enumerate(rows):
            self.paths[number, : len(row)] = torch.tensor(row)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def visible(self) -> Tensor:
        """Whether a node sees another: itself and those on its way to the root, bool [N, N]."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for depth in range(1, int(self.depths.max()) + 1):
            nodes = (self.depths == depth).nonzero()[:, 0]
            seen[nodes] |= seen[self.parents[nodes]]
        return seen

    def to(self, device: torch.device) -> "AnswerTrie":
        """The same tree on another device."""
        if self.tokens.device == device:
            return self
        moved = object.__new__(AnswerTrie)
        for name in ("tokens", "parents", "depths", "inner", "paths", "visible"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved
