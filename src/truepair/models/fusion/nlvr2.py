"""Statements about two images: a fusion encoder that looks at both, text assignment, and the head."""

from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from truepair.data.pairs import PairBatch
from truepair.data.tasks.nlvr2 import Nlvr2Batch
from truepair.devices import sent
from truepair.errors import ConfigError
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.downstream import DownstreamConfig, DownstreamModel
from truepair.models.fusion.fusion_encoder import FusionEncoder, FusionLayer
from truepair.models.fusion.rows import RowGroups
from truepair.models.fusion.text_encoder import AttentionBlock, FeedForwardBlock, visible_keys
from truepair.relations.pairs import same_pair

NEITHER = 2
"""The label of a caption that belongs to neither image."""


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


class Nlvr2Model(DownstreamModel):
    """Two cross-attentions in each fusion layer, merged, and a classifier on [CLS], as in SRCL and BLIP.

    Methods take image states, so that those of a frozen encoder may come from a cache.
    """

    config_class = Nlvr2Config
    config: Nlvr2Config
    base_model_prefix = "nlvr2"

    def __init__(self, config: Nlvr2Config) -> None:
        super().__init__(config, images=2)
        width = config.hidden_size
        self.fusion_encoder = TwoImageFusion(config, self.image_encoder.width)
        read = width if self.token_products is None else width + self.token_products.merge.in_features
        self.classifier = nn.Sequential(nn.Linear(read, width), nn.ReLU(), nn.Linear(width, 2))
        self.assignment = nn.Linear(read, 3) if config.assignment_head else None
        self.post_init()

    def _start_from(self, albef: AlbefModel) -> None:
        self.fusion_encoder.start_from(albef.fusion_encoder)

    def fuse(self, image_states: Tensor, text_states: Tensor, attention_mask: Tensor, image_rows: Tensor) -> Tensor:
        """What the heads read: fused [CLS] states [B, D], with ``token_products`` followed by their means.

        Args:
            image_states: of I images [I, N, W].
            text_states: of the texts [B, L, D].
            attention_mask: 1 for tokens and 0 for padding, [B, L].
            image_rows: left and right image of each text, [B, 2] int64.
        """
        if self.token_products is None:
            fused: Tensor = self.fusion_encoder(text_states, attention_mask, image_states, image_rows)
            return fused
        states, common = self.token_products(text_states, attention_mask, image_states, image_rows)
        return torch.cat([self.fusion_encoder(states, attention_mask, image_states, image_rows), common], dim=1)

    def judge(self, batch: Nlvr2Batch, image_states: Tensor | None = None, text_states: Tensor | None = None) -> Tensor:
        """Logits [B, 2] of a batch of statements (index 1: true).

        Args:
            batch: B statements about I images.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [B, L, D]; they replace the tokens.
        """
        states = self._states_of(batch.pixel_values, image_states)
        if text_states is None:
            text_states = self.text_states(batch.input_ids, batch.attention_mask)
        fused = self.fuse(states, text_states, batch.attention_mask, batch.image_rows)
        logits: Tensor = self.classifier(fused)
        return logits

    def loss(self, batch: Nlvr2Batch, image_states: Tensor | None = None, text_states: Tensor | None = None) -> Tensor:
        """Cross-entropy of a batch of statements whose truth is known, a scalar; arguments as for `judge`."""
        return F.cross_entropy(self.judge(batch, image_states, text_states).float(), batch.labels)

    @torch.inference_mode()
    def predict(
        self, batch: Nlvr2Batch, image_states: Tensor | None = None, text_states: Tensor | None = None
    ) -> Tensor:
        """Probability that each statement is true, float32 [B]; to be called in evaluation mode, as `judge` is."""
        return self.judge(batch, image_states, text_states).float().softmax(dim=1)[:, 1]

    def assignment_loss(
        self,
        batch: PairBatch,
        generator: torch.Generator,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
    ) -> Tensor:
        """Text assignment on a batch of pre-training pairs: cross-entropy over first image, second image, neither.

        Images with the id of a caption's own, or with its text, are never the wrong ones.

        Args:
            batch: B pairs.
            generator: draws the images; on the batch's device.
            image_states: [B, N, W]; they replace the pixels.
            text_states: [B, L, D]; they replace the tokens.
        """
        assert self.assignment is not None, "text assignment needs assignment_head: true"
        states = self._states_of(batch.pixel_values, image_states)
        drawn = draw_assignment(sent(~same_pair(batch.image_id, batch.caption_key), batch.device), generator)
        if not len(drawn.texts):  # every image may belong to every caption
            return states.sum() * 0.0
        mask = batch.attention_mask[drawn.texts]
        if text_states is None:
            texts = self.text_states(batch.input_ids[drawn.texts], mask)
        else:
            texts = text_states[drawn.texts]
        fused = self.fuse(states, texts, mask, drawn.images)  # [R, D]
        return F.cross_entropy(self.assignment(fused).float(), drawn.labels)

    def drop_assignment(self) -> None:
        """Go from text assignment to statements: its head is left out, and the classifier moves."""
        self.assignment = None
        self.config.assignment_head = False
        self.classifier.requires_grad_(True)

    def _states_of(self, pixel_values: Tensor | None, image_states: Tensor | None) -> Tensor:
        if image_states is not None:
            return image_states
        assert pixel_values is not None, "a batch without pixels needs image states"
        return self.image_states(pixel_values)


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


class Assignment(NamedTuple):
    """R captions, each with two images of the batch."""

    texts: Tensor
    """The caption of each row, int64 [R]."""
    images: Tensor
    """The two images of each row, int64 [R, 2]."""
    labels: Tensor
    """0 where the caption belongs to the first image, 1 to the second, 2 to neither; int64 [R]."""


def draw_assignment(negatives: Tensor, generator: torch.Generator) -> Assignment:
    """Give each caption of a batch two different images; the three labels are equally likely.

    A caption with only one negative image is never given to neither; one without any is left out.

    Args:
        negatives: True where image j is a negative of caption i, bool [B, B]; known matches must be False.
        generator: on the device of ``negatives``.
    """
    count, device = len(negatives), negatives.device
    draws = torch.rand(count, count, generator=generator, device=device).masked_fill(~negatives, -1.0)
    drawn = draws.sort(dim=1, descending=True).indices  # negatives first, in random order
    available = negatives.sum(dim=1)  # [B]
    other, another = drawn[:, 0], drawn[:, min(1, count - 1)]
    choices = (available + 1).clamp(max=3)  # [B]
    labels = (torch.rand(count, generator=generator, device=device) * choices).long()  # [B]
    own = torch.arange(count, device=device)
    first = torch.where(labels == 0, own, other)
    second = torch.where(labels == 0, other, torch.where(labels == 1, own, another))
    texts = (available > 0).nonzero()[:, 0]  # [R]
    return Assignment(texts, torch.stack([first, second], dim=1)[texts], labels[texts])
