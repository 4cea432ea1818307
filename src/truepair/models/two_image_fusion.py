"""The fusion encoder for two images: each layer looks at both, and merges what it saw."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.errors import ConfigError
from truepair.models.bert_layers import AttentionBlock, FeedForwardBlock, visible_keys
from truepair.models.downstream import DownstreamConfig
from truepair.models.fusion import FusionEncoder, FusionLayer
from truepair.models.row_groups import RowGroups


class Nlvr2Config(DownstreamConfig):
    """Sizes and options of `Nlvr2Model`."""

    model_type: ClassVar[str] = "truepair-nlvr2"

    shared_cross_attention: bool = True
    """One cross-attention reads both images; False gives each side one of its own, started alike."""
    image_merge: str = "linear"
    """From the two cross-attentions to one state: "linear" (2 D to D, started as the mean) or "mean"."""
    assignment_head: bool = False
    """A head for text assignment, the pre-training step that ALBEF puts before NLVR2."""

    def _check(self) -> None:
        super()._check()
        if self.image_merge not in ("linear", "mean"):
            raise ConfigError(f"image_merge is {self.image_merge!r}; it must be one of linear, mean.")
        if self.shared_cross_attention and self.image_merge == "mean":
            raise ConfigError("the mean of a shared cross-attention has no left and right: set image_merge to linear.")


class TwoImageLayer(GradientCheckpointingLayer):
    """One BERT layer with a cross-attention to each of two images between its self-attention and feed-forward block."""

    def __init__(self, config: Nlvr2Config, image_width: int) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config)
        count = 1 if config.shared_cross_attention else 2
        self.cross_attentions = nn.ModuleList(AttentionBlock(config, source_width=image_width) for _ in range(count))
        self.merge = nn.Linear(2 * config.hidden_size, config.hidden_size) if config.image_merge == "linear" else None
        self.feed_forward = FeedForwardBlock(config)

    @torch.no_grad()
    def start_from(self, layer: FusionLayer) -> None:
        """Take over the weights of a fusion layer: of two equal images it then makes what that layer makes of one."""
        self.self_attention.load_state_dict(layer.self_attention.state_dict())
        self.feed_forward.load_state_dict(layer.feed_forward.state_dict())
        for attention in self.cross_attentions:
            attention.load_state_dict(layer.cross_attention.state_dict())
        if self.merge is not None:
            half = torch.eye(self.merge.out_features) / 2
            self.merge.weight.copy_(torch.cat([half, half], dim=1))
            self.merge.bias.zero_()

    def forward(
        self, states: Tensor, mask: Tensor, image_states: Tensor, sides: tuple[RowGroups, RowGroups], cls_only: bool
    ) -> Tensor:
        """Text states [B, L, D] and image states [I, N, W] to fused states [B, L, D], [B, 1, D] of [CLS]."""
        keys, values = self.self_attention.keys_values(states)
        states = self.self_attention(states[:, :1] if cls_only else states, keys, values, mask)
        attentions = [cast(AttentionBlock, attention) for attention in self.cross_attentions]
        # Keys and values once per image, also where one image is on the left here and on the right there.
        sources = [attention.keys_values(image_states) for attention in attentions]
        left = attentions[0](states, *sources[0], groups=sides[0])
        right = attentions[-1](states, *sources[-1], groups=sides[1])
        merged = (left + right) / 2 if self.merge is None else self.merge(torch.cat([left, right], dim=2))
        out: Tensor = self.feed_forward(merged)
        return out


class TwoImageFusion(nn.Module):
    """`config.fusion_layers` such layers.

    Args:
        config: sizes and options.
        image_width: width of the image states.
    """

    def __init__(self, config: Nlvr2Config, image_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoImageLayer(config, image_width) for _ in range(config.fusion_layers))

    def start_from(self, fusion: FusionEncoder) -> None:
        """Take over the weights of a fusion encoder for one image."""
        for layer, source in zip(self.layers, fusion.layers, strict=True):
            cast(TwoImageLayer, layer).start_from(cast(FusionLayer, source))

    def forward(self, text_states: Tensor, attention_mask: Tensor, image_states: Tensor, image_rows: Tensor) -> Tensor:
        """Fuse each text with its two images.

        Args:
            text_states: states of the text encoder [B, L, D].
            attention_mask: 1 for tokens and 0 for padding, [B, L].
            image_states: of I images [I, N, W].
            image_rows: left and right image of each text, [B, 2] int64.

        Returns:
            Fused states of [CLS], [B, D].
        """
        left, right = image_rows.unbind(1)
        sides = RowGroups.of(left, len(image_states)), RowGroups.of(right, len(image_states))
        mask = visible_keys(attention_mask)
        states = text_states
        for number, layer in enumerate(self.layers, 1):
            states = layer(states, mask, image_states, sides, number == len(self.layers))
        return states[:, 0]
