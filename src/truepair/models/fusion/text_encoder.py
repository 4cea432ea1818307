"""The text encoder: BERT's blocks, and the first layers of a BERT."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.models.encoders.recomputing import recomputed
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.rows import RowGroups, apply_by_length, attention


class AttentionBlock(nn.Module):
    """Multi-head attention, output projection, dropout, residual, LayerNorm (BERT's post-norm order).

    The source of keys and values may be of another width and may be shared: `keys_values` is a step of its own, so that
    its result can be computed once and used by many rows.

    Args:
        config: Width, heads, dropout and LayerNorm epsilon.
        source_width: Width of the states that keys and values are made of; None means `config.hidden_size`.
    """

    def __init__(self, config: AlbefConfig, source_width: int | None = None) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width or width, width)
        self.value = nn.Linear(source_width or width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of some states.

        Args:
            source: States [S, N, W].

        Returns:
            Keys and values, each [S, N, D], not yet split into heads.
        """
        return self.key(source), self.value(source)

    def forward(
        self, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, groups: RowGroups | None = None
    ) -> Tensor:
        """Attend from each row to its own source.

        Args:
            states: Rows [R, L, D].
            keys: Keys [R, N, D]; with `groups`, [I, N, D] for the I shared sources.
            values: As `keys`.
            mask: True where a key may be seen; it must broadcast to [R, heads, L, N]. With `groups`, one row per slot,
                [S, 1, 1, N].
            groups: Which row uses which source; None means row r uses source r.

        Returns:
            New states [R, L, D].
        """
        context = attention(
            self.query(states),
            keys,
            values,
            self.heads,
            mask=mask,
            dropout=self.attention_dropout if self.training else 0.0,
            groups=groups,
        )  # [R, L, D]
        attended: Tensor = self.norm(self.dropout(self.output(context)) + states)
        return attended


class FeedForwardBlock(nn.Module):
    """Two linear layers with an activation between, dropout, residual, LayerNorm (BERT's post-norm order)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        """States [..., D] to states [..., D]."""
        contracted = recomputed(self._contracted, self.expand(states))
        out: Tensor = self.norm(self.dropout(contracted) + states)
        return out

    def _contracted(self, wide: Tensor) -> Tensor:
        out: Tensor = self.contract(self.activation(wide))
        return out


def visible_keys(attention_mask: Tensor) -> Tensor:
    """A mask over tokens [R, L] (1 = token, 0 = padding) as the boolean mask over keys that attention takes."""
    return attention_mask.to(torch.bool)[:, None, None, :]  # [R, 1, 1, L]


class TokenEmbeddings(nn.Module):
    """BERT's input: word, position and (always the first) token-type embedding, LayerNorm, dropout."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids [R, L] to embeddings [R, L, D]."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        summed = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        embeddings: Tensor = self.dropout(self.norm(summed + self.token_type_embeddings.weight[0]))
        return embeddings


class TextLayer(GradientCheckpointingLayer):
    """One BERT layer: self-attention and feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config)
        self.feed_forward = FeedForwardBlock(config)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [R, L, D] to states [R, L, D]; `mask` [R, 1, 1, L] is True where a token may be seen."""
        keys, values = self.self_attention.keys_values(states)
        out: Tensor = self.feed_forward(self.self_attention(states, keys, values, mask))
        return out


class TextEncoder(nn.Module):
    """Token embeddings and `config.text_layers` BERT layers."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.embeddings = TokenEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.text_layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [R, L], to states [R, L, D]."""
        return apply_by_length(input_ids, attention_mask, self._encode)

    def _encode(self, _: Tensor | slice, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings and all layers over some rows."""
        states: Tensor = self.embeddings(input_ids)
        mask = visible_keys(attention_mask)
        for layer in self.layers:
            states = layer(states, mask)
        return states
