"""The text encoder: token embeddings and the first layers of a BERT."""

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.models.bert_layers import AttentionBlock, FeedForwardBlock, visible_keys
from truepair.models.config import AlbefConfig
from truepair.models.length_groups import apply_by_length


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

    def _encode(self, _: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings and all layers over some rows."""
        states: Tensor = self.embeddings(input_ids)
        mask = visible_keys(attention_mask)
        for layer in self.layers:
            states = layer(states, mask)
        return states
