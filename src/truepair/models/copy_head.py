"""Copying: the words of a question are likely words of its answer."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CopyKeys(NamedTuple):
    """What may be copied from Q questions, and how it is found."""

    tokens: Tensor
    """Numbers of the questions' tokens in the decoder's vocabulary, [Q, N] int64; -1 where nothing can be copied."""
    keys: Tensor
    """[Q, N, D]."""


class CopyHead(nn.Module):
    """Gives the tokens of a question a score of their own, beside the vocabulary's (CopyNet, Gu et al. 2016, 3.2).

    A token's probability is the share of its vocabulary score and of its places in the question, all exponentiated.
    Who is asked "a dog or a cat?" has only to point at one of the two, and not to learn each name. The key of a place
    also holds the state before it, so that a name that has begun is found by its last token.

    Args:
        width: D, of decoder states and question states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(2 * width, width)

    def keys(self, states: Tensor, tokens: Tensor) -> CopyKeys:
        """Prepare questions.

        Args:
            states: fused states of the questions [Q, N, D].
            tokens: numbers of their tokens in the decoder's vocabulary, -1 where nothing can be copied, [Q, N] int64.
        """
        before = F.pad(states[:, :-1], (0, 0, 1, 0))  # [Q, N, D]
        return CopyKeys(tokens, self.key(torch.cat([states, before], dim=2)))

    def forward(self, logits: Tensor, states: Tensor, source: CopyKeys, rows: Tensor) -> Tensor:
        """Logits [P, V] to logits [P, V] in which the question has its say.

        Args:
            logits: of the vocabulary [P, V].
            states: of the decoder, where they were predicted [P, D].
            source: from `keys`, for Q questions.
            rows: the question of each state, [P] int64.
        """
        scores = torch.einsum("pd,pnd->pn", self.query(states), source.keys[rows]) / math.sqrt(states.shape[1])
        tokens = source.tokens[rows]  # [P, N]
        scores = scores.float().masked_fill(tokens < 0, -torch.inf)
        highest = scores.detach().amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # [P, 1]
        shares = torch.zeros_like(logits, dtype=scores.dtype)
        shares = shares.scatter_add(1, tokens.clamp(min=0), (scores - highest).exp())  # [P, V]
        copied = torch.where(shares > 0, shares.clamp(min=1e-30).log() + highest, -torch.inf)
        return torch.logaddexp(logits.float(), copied)
