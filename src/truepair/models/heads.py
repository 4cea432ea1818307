"""The heads on top of the encoders: projections for ITC, the match head for ITM, the vocabulary head for MLM."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from truepair.errors import ConfigError
from truepair.models.config import AlbefConfig


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
        """Project pooled states [B, width]."""
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
