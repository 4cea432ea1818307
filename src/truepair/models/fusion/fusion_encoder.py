"""The fusion encoder: BERT layers that also look at an image, whose keys and values are computed once."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.models.dual.base import ImageKeysValues
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.rows import RowGroups, apply_by_length
from truepair.models.fusion.text_encoder import AttentionBlock, FeedForwardBlock, visible_keys


class FusionLayer(GradientCheckpointingLayer):
    """One BERT layer with cross-attention between its self-attention and its feed-forward block."""

    def __init__(self, config: AlbefConfig, image_width: int) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config)
        self.cross_attention = AttentionBlock(config, source_width=image_width)
        self.feed_forward = FeedForwardBlock(config)

    def image_keys_values(self, image_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [I, N, D], of image states [I, N, W]."""
        return self.cross_attention.keys_values(image_states)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        groups: RowGroups | None,
        cls_only: bool = False,
    ) -> Tensor:
        """Text states [R, L, D] and image keys and values [I, N, D] to fused states [R, L, D], [R, 1, D] of [CLS]."""
        keys, values = self.self_attention.keys_values(states)
        states = self.self_attention(states[:, :1] if cls_only else states, keys, values, mask)
        states = self.cross_attention(states, image_keys, image_values, groups=groups)
        out: Tensor = self.feed_forward(states)
        return out


class FusionEncoder(nn.Module):
    """`config.fusion_layers` BERT layers with cross-attention to image states.

    Args:
        config: Sizes.
        image_width: Width of the image states; it may differ from the text width.
    """

    def __init__(self, config: AlbefConfig, image_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(config, image_width) for _ in range(config.fusion_layers))

    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """Keys and values of every layer for images [I, N, W], to be shared by all rows that use these images."""
        pairs = [cast(FusionLayer, layer).image_keys_values(image_states) for layer in self.layers]
        keys, values = zip(*pairs, strict=True)
        return ImageKeysValues(keys, values)

    def forward(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """Fuse each row of text with its image.

        Args:
            text_states: States of the text encoder [R, L, D].
            attention_mask: 1 for tokens, then 0 for padding, [R, L].
            keys_values: From `image_keys_values`, for I images.
            image_rows: The image of each row, [R] int64; on the host, if no device is to be waited for. None means row
                r uses image r.
            cls_only: Only [CLS] is wanted, as for ITM: the last layer computes nothing else.

        Returns:
            Fused states [R, L, D], or [R, 1, D] with `cls_only`.
        """
        if image_rows is None:
            image_rows = torch.arange(len(text_states))
        images = image_rows

        def fuse(rows: Tensor | slice, states: Tensor, mask: Tensor) -> Tensor:
            """All layers over some rows."""
            return self._layers(states, mask, keys_values, images[rows], cls_only)

        return apply_by_length(text_states, attention_mask, fuse, cls_only=cls_only)

    def _layers(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor,
        cls_only: bool,
    ) -> Tensor:
        """All layers over all rows at once."""
        groups = RowGroups.of(image_rows, keys_values.images, text_states.device)
        mask = visible_keys(attention_mask)
        states = text_states
        last = len(self.layers) - 1
        layers = zip(self.layers, keys_values.keys, keys_values.values, strict=True)
        for number, (layer, keys, values) in enumerate(layers):
            states = layer(states, mask, keys, values, groups, cls_only and number == last)
        return states
