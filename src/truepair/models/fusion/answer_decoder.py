"""The answer decoder of VQA: BERT layers with causal self-attention, and cross-attention to the question states."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.data.tasks.vqa import AnswerVocabulary
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.fusion_encoder import FusionLayer
from truepair.models.fusion.heads import VocabularyHead
from truepair.models.fusion.rows import RowGroups
from truepair.models.fusion.text_encoder import AttentionBlock, FeedForwardBlock, TokenEmbeddings


class CopyKeys(NamedTuple):
    """What may be copied from Q questions, and how it is found."""

    tokens: Tensor
    """Numbers of the questions' tokens in the decoder's vocabulary, [Q, N] int64; -1 where nothing can be copied."""
    keys: Tensor
    """[Q, N, D]."""


class CopyHead(nn.Module):
    """Gives the tokens of a question a score of their own, beside the vocabulary's (CopyNet, Gu et al. 2016, 3.2).

    A token's probability is the share of its vocabulary score and of its places in the question, all exponentiated.
    Asked "a dog or a cat?", the decoder has only to point at one of the two, and need not learn each name. The key of a
    place also holds the state before it, so that a name that has begun is found by its last token.

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
        """Logits [P, V] to logits [P, V] with those of the question's tokens added.

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


Past = tuple[tuple[Tensor, Tensor], ...]
"""Per layer, the self-attention's keys and values [R, P, D] of the tokens before."""


class QuestionKeysValues(NamedTuple):
    """What the decoder layers need to know of Q questions, computed once for all their answers."""

    keys: tuple[Tensor, ...]
    """One [Q, N, D] per layer."""
    values: tuple[Tensor, ...]
    """One [Q, N, D] per layer."""
    mask: Tensor
    """True at the tokens of the questions, bool [Q, N]."""
    copies: CopyKeys | None = None
    """What may be copied; None for a decoder that does not copy."""


class Decoded(NamedTuple):
    """What the decoder makes of some tokens."""

    states: Tensor
    """[R, L, D]."""
    past: Past
    """Keys and values of these tokens and of those before, to go on from."""


class DecoderLayer(GradientCheckpointingLayer):
    """One BERT layer whose self-attention sees what its mask shows, with cross-attention to a question."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config)
        self.cross_attention = AttentionBlock(config)
        self.feed_forward = FeedForwardBlock(config)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        before: tuple[Tensor, Tensor] | None,
        question: tuple[Tensor, Tensor, Tensor],
        groups: RowGroups | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States [R, L, D] to new states, and the keys and values [R, P + L, D] of all tokens so far."""
        keys, values = self.self_attention.keys_values(states)
        if before is not None:
            keys, values = torch.cat([before[0], keys], dim=1), torch.cat([before[1], values], dim=1)
        states = self.self_attention(states, keys, values, mask)
        source_keys, source_values, source_mask = question
        states = self.cross_attention(states, source_keys, source_values, source_mask, groups)
        return self.feed_forward(states), (keys, values)


class AnswerDecoder(nn.Module):
    """As many layers as the fusion encoder has, with token embeddings and a vocabulary head of its own (ALBEF, 3.5).

    Args:
        config: sizes.
        tokens: tokens of the pre-trained model's vocabulary that it knows, padding first; here they are numbered by
            their place. None: all of them.
        copies: the tokens of a question may be copied into its answer.
    """

    def __init__(self, config: AlbefConfig, tokens: Sequence[int] | None = None, *, copies: bool = False) -> None:
        super().__init__()
        self.tokens = None if tokens is None else list(tokens)
        self.copy_head = CopyHead(config.hidden_size) if copies else None
        if self.tokens is not None:
            config = copy.deepcopy(config)
            config.vocab_size, config.pad_token_id = len(self.tokens), 0
        self.embeddings = TokenEmbeddings(config)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.fusion_layers))
        self.head = VocabularyHead(config)

    def start_from(self, albef: AlbefModel) -> None:
        """Take over the weights of a pre-trained model's fusion layers, word embeddings and vocabulary head.

        The fusion layers read image states, the decoder question states. Where the two differ in width, keys and values
        of the cross-attention cannot be taken over and stay as they are; so does the head, where there is none.
        """
        self.embeddings.load_state_dict(self._known(albef.text_encoder.embeddings.state_dict()))
        for layer, module in zip(self.layers, albef.fusion_encoder.layers, strict=True):
            fusion = cast(FusionLayer, module)
            own = layer.state_dict()
            state = {name: value for name, value in fusion.state_dict().items() if value.shape == own[name].shape}
            layer.load_state_dict({**own, **state})
        if albef.mlm_head is not None:
            self.head.load_state_dict(self._known(albef.mlm_head.state_dict()))

    def _known(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows of vocabulary matrices that belong to known tokens; other tensors as they are."""
        if self.tokens is None:
            return dict(state)
        by_token = ("word_embeddings.weight", "decoder.weight", "decoder.bias")
        return {name: value[self.tokens] if name in by_token else value for name, value in state.items()}

    def question_keys_values(
        self, states: Tensor, attention_mask: Tensor, input_ids: Tensor | None = None
    ) -> QuestionKeysValues:
        """Keys and values of every layer for questions.

        Args:
            states: fused states of the questions [Q, N, D].
            attention_mask: 1 for tokens and 0 for padding, [Q, N].
            input_ids: their tokens [Q, N]; needed where they may be copied.
        """
        pairs = [cast(DecoderLayer, layer).cross_attention.keys_values(states) for layer in self.layers]
        keys, values = zip(*pairs, strict=True)
        mask = attention_mask.to(torch.bool)
        if self.copy_head is None:
            return QuestionKeysValues(keys, values, mask)
        assert input_ids is not None, "copying needs the tokens of the questions"
        known = input_ids if self._vocabulary is None else self._vocabulary.places(input_ids)
        return QuestionKeysValues(keys, values, mask, self.copy_head.keys(states, known.masked_fill(~mask, -1)))

    def logits(self, states: Tensor, questions: QuestionKeysValues, rows: Tensor) -> Tensor:
        """What follows some states: logits [P, V].

        Args:
            states: from `forward` [P, D].
            questions: Q of them.
            rows: the question of each state, [P] int64.
        """
        logits: Tensor = self.head(states)
        if self.copy_head is None:
            return logits
        assert questions.copies is not None, "questions of a decoder that does not copy"
        copied: Tensor = self.copy_head(logits, states, questions.copies, rows)
        return copied

    def forward(
        self,
        input_ids: Tensor,
        questions: QuestionKeysValues,
        question_rows: Tensor | None = None,
        *,
        past: Past | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Decoded:
        """Read some tokens of each row.

        Args:
            input_ids: token ids [R, L].
            questions: from `question_keys_values`, for Q questions.
            question_rows: the question of each row, [R] int64; None means row r uses question r.
            past: what came before, P tokens of each row.
            positions: place of each token in its answer, [R, L]; by default they follow each other from P on.
            mask: True where a token may see another, bool [R, 1, L, P + L]; by default it sees itself and what is left
                of it. Padding on the right is never seen by a token, so it needs no mask.
        """
        before = 0 if past is None else past[0][0].shape[1]
        length = input_ids.shape[1]
        if positions is None:
            positions = torch.arange(before, before + length, device=input_ids.device).expand_as(input_ids)
        if mask is None:
            mask = causal_mask(length, before, input_ids.device)
        groups = None if question_rows is None else RowGroups.of(question_rows, len(questions.mask))
        seen = questions.mask if groups is None else groups.expand(questions.mask)
        states = self._embed(input_ids, positions)
        so_far: list[tuple[Tensor, Tensor]] = []
        for number, layer in enumerate(self.layers):
            source = questions.keys[number], questions.values[number], seen[:, None, None, :]
            states, keys_values = layer(states, mask, None if past is None else past[number], source, groups)
            so_far.append(keys_values)
        return Decoded(states, tuple(so_far))

    @cached_property
    def _vocabulary(self) -> AnswerVocabulary | None:
        """Built when it is needed: `from_pretrained` creates models on a device without values."""
        return None if self.tokens is None else AnswerVocabulary(self.tokens)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Token ids and places [R, L] to embeddings [R, L, D]."""
        tables = self.embeddings
        summed = tables.word_embeddings(input_ids) + tables.position_embeddings(positions)
        embeddings: Tensor = tables.dropout(tables.norm(summed + tables.token_type_embeddings.weight[0]))
        return embeddings


def causal_mask(length: int, before: int, device: torch.device) -> Tensor:
    """Which of P + L tokens each of the last L sees: all but those on its right; bool [1, 1, L, P + L]."""
    full = torch.ones(length, before + length, dtype=torch.bool, device=device)
    return full.tril(diagonal=before)[None, None]
