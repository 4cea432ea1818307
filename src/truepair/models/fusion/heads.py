"""Heads: projections, ITM, vocabulary, and products of words and image regions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from truepair.errors import ConfigError
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.rows import RowGroups


class DeepProjection(nn.Sequential):
    """The "mlp" projection: dropout, linear, GELU, dropout, linear; from [B, width] to [B, embed_dim].

    Args:
        config: sizes and dropout.
        width: of the pooled states.
    """

    def __init__(self, config: AlbefConfig, width: int) -> None:
        hidden = config.projection_hidden_size or config.hidden_size
        within = config.hidden_dropout_prob if config.projection_dropout is None else config.projection_dropout
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(within), nn.Linear(hidden, config.embed_dim))
        self.input_dropout = config.projection_input_dropout

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled states [B, width] to unnormalised features [B, embed_dim]."""
        if self.training and self.input_dropout:
            pooled = F.dropout(pooled, self.input_dropout)
        projected: Tensor = super().forward(pooled)
        return projected


def build_projection(config: AlbefConfig, width: int) -> nn.Module:
    """The map from a pooled state [B, width] to an unnormalised feature [B, embed_dim], as `config.projection` says."""
    return nn.Linear(width, config.embed_dim) if config.projection == "linear" else DeepProjection(config, width)


class MatchHead(nn.Module):
    """ITM: two logits from the fused [CLS] state; index 1 says that image and text belong together.

    With `config.itm_product` it also reads the elementwise product of the two L2-normalised features, times sqrt(E).
    The factor keeps the length of that input near 1, whatever E is.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size + (config.embed_dim if config.itm_product else 0), 2)
        self.product = config.itm_product

    def forward(self, fused: Tensor, image_feature: Tensor | None = None, text_feature: Tensor | None = None) -> Tensor:
        """Judge each row.

        Args:
            fused: Fused states [R, L, D]; only the first of each row is read.
            image_feature: Features of the image of each row [R, E]; needed with `itm_product`.
            text_feature: Features of the text of each row [R, E]; needed with `itm_product`.

        Returns:
            Logits [R, 2].

        Raises:
            ConfigError: when the features are needed and missing.
        """
        inputs = fused[:, 0]  # [R, D]
        if self.product:
            if image_feature is None or text_feature is None:
                raise ConfigError("itm_product is on: pass image_feature and text_feature of each row to match.")
            product = image_feature * text_feature * math.sqrt(image_feature.shape[1])  # [R, E]
            inputs = torch.cat([inputs, product.to(inputs.dtype)], dim=1)
        logits: Tensor = self.linear(inputs)
        return logits


class VocabularyHead(nn.Module):
    """MLM: linear, activation, LayerNorm, then logits over the vocabulary (BERT's prediction head)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """States [P, D] to logits [P, V]."""
        logits: Tensor = self.decoder(self.norm(self.activation(self.transform(states))))
        return logits


class ZeroLinear(nn.Linear):
    """A linear map that starts at zero; `AlbefModel` initialises it."""


class RegionProducts(nn.Module):
    """Tells the fusion encoder, word by word, which regions of an image ITC finds alike.

    ITC learns what an image shows long before cross-attention finds out where. So each word attends to the regions in
    the space of ITC, at ITC's temperature (as in SCAN, Lee et al., ECCV 2018). The elementwise product of the word and
    what it found, and its sum, the similarity, are mapped to the width of a state and added to the word's. Their mean
    over the words is added to [CLS], before and behind the fusion layers. Both maps start at zero: at first, nothing
    changes. No gradient reaches the space of ITC.

    Args:
        config: sizes.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.of_words = ZeroLinear(config.embed_dim + 1, config.hidden_size)
        self.of_captions = ZeroLinear(config.embed_dim + 1, config.hidden_size)

    def forward(
        self, words: Tensor, attention_mask: Tensor, regions: Tensor, image_rows: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is to be added to the text states before fusion [R, L, D], and to [CLS] behind it [R, D].

        Args:
            words: Each token in the space of ITC, L2-normalised [R, L, E].
            attention_mask: 1 for tokens and 0 for padding, [R, L].
            regions: Each image state in the space of ITC, L2-normalised [I, N, E].
            image_rows: The image of each row, [R] int64.
            temperature: Of ITC, a scalar.
        """
        with torch.no_grad():
            common = _shared_with_regions(words, regions, image_rows, temperature)  # [R, L, E + 1]
            is_word = attention_mask[:, 1:, None].to(common.dtype)  # without [CLS], which is no word
            mean = (common[:, 1:] * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)  # [R, E + 1]
            common = torch.cat([mean[:, None], common[:, 1:]], dim=1)
        return self.of_words(common), self.of_captions(mean)


def _shared_with_regions(words: Tensor, regions: Tensor, image_rows: Tensor, temperature: Tensor) -> Tensor:
    """Products of each word [R, L, E] with what it attends to in the regions [I, N, E], and their sum [R, L, E + 1]."""
    groups = RowGroups.of(image_rows, len(regions), regions.device)
    queries, keys = groups.pack(words), groups.expand(regions)  # [S, G * L, E], [S, N, E]
    attention = (queries @ keys.transpose(1, 2) / temperature).softmax(dim=2)  # [S, G * L, N]
    attended = groups.unpack(attention @ keys)  # [R, L, E]
    products = words * attended * math.sqrt(words.shape[2])  # the factor keeps the length of a product near 1
    # The sum could be learned from its parts, but slowly: each of them says next to nothing.
    return torch.cat([products, products.sum(dim=2, keepdim=True)], dim=2)
