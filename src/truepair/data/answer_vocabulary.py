"""The tokens that answers are made of, numbered anew."""

from collections.abc import Sequence

import torch
from torch import Tensor


class AnswerVocabulary:
    """A part of a tokenizer's vocabulary. A decoder over it alone is many times smaller and faster.

    Args:
        tokens: V tokens of the tokenizer, the padding first; a token's new number is its place.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self._places = torch.full((max(tokens) + 1,), -1)
        self._places[torch.tensor(self.tokens)] = torch.arange(len(self.tokens))

    @classmethod
    def of_answers(cls, input_ids: Tensor, attention_mask: Tensor, padding: int) -> "AnswerVocabulary":
        """The tokens of some answers.

        Args:
            input_ids: tokens of the answers, start and end included, int64 [A, T].
            attention_mask: 1 for tokens and 0 for padding, [A, T].
            padding: the padding token.
        """
        used = input_ids[attention_mask.bool()].unique().tolist()
        return cls([padding, *(token for token in used if token != padding)])

    def __len__(self) -> int:
        return len(self.tokens)

    def places(self, input_ids: Tensor) -> Tensor:
        """Numbers of some tokens here, int64 of the same shape; -1 for those that are not part of it."""
        places = self._places.to(input_ids.device)
        return torch.where(input_ids < len(places), places[input_ids.clamp(max=len(places) - 1)], -1)

    def known(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Whether all tokens of an answer [A, T] are part of it, bool [A]."""
        return ((self.places(input_ids) >= 0) | ~attention_mask.bool()).all(dim=1)
