"""Captions of images: text encoder and fusion encoder of a pre-trained model, reading from left to right."""

import math
from typing import ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truepair.data.tasks.captioning import CaptionBatch
from truepair.errors import ConfigError
from truepair.models.dual.base import ImageKeysValues
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.answer_decoder import Past, causal_mask
from truepair.models.fusion.beams import beam_search
from truepair.models.fusion.downstream import DownstreamConfig, DownstreamModel
from truepair.models.fusion.fusion_encoder import FusionEncoder, FusionLayer
from truepair.models.fusion.heads import VocabularyHead, build_projection
from truepair.models.fusion.rows import RowGroups
from truepair.models.fusion.text_encoder import AttentionBlock, TextLayer


class CaptionConfig(DownstreamConfig):
    """Sizes and options of `CaptionModel`."""

    model_type: ClassVar[str] = "truepair-captioning"

    image_feature: bool = False
    """Let the decoder look at one state more beside those of the image: the image's feature in ITC (needs
    ``contrastive_head``), which tells what it shows before a small fusion encoder has learned to see it."""
    caption_tokens: list[int] | None = None
    """Tokens of the tokenizer that captions are made of: no others are written, and the head computes no others. None:
    all of them. A head of 30,522 tokens takes more time than all layers of a small decoder."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over the whole vocabulary in training."""

    def _check(self) -> None:
        super()._check()
        if self.token_products:
            raise ConfigError("token_products is for finished texts; captioning has image_feature in its place.")
        if self.image_feature and not self.contrastive_head:
            raise ConfigError("image_feature needs the features of ITC: start from a model with contrastive_head.")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; give a share from 0, below 1.")
        if self.caption_tokens is not None and self.caption_tokens != sorted(set(self.caption_tokens)):
            raise ConfigError("caption_tokens must be in ascending order, and each be there once.")


class CaptionModel(DownstreamModel):
    """A decoder of all text and fusion layers of a pre-trained model, in which no token sees what follows it.

    The layers keep their weights, the head of MLM says which token follows. Methods take image states, so that those of
    a frozen encoder may come from a cache.
    """

    config_class = CaptionConfig
    config: CaptionConfig
    base_model_prefix = "captioning"
    _tied_weights_keys: dict[str, str] = {  # noqa: RUF012 - transformers reads it as an attribute of the model
        "head.decoder.weight": "text_encoder.embeddings.word_embeddings.weight"
    }

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        width = self.image_encoder.width
        self.fusion_encoder = FusionEncoder(config, width)
        self.head = VocabularyHead(config)
        # ITC's space is not trained further: it compares pictures, and may tell the decoder what they show.
        self.image_projection = build_projection(config, width) if config.contrastive_head else None
        if self.image_projection is not None:
            self.image_projection.requires_grad_(False)
        self.feature_state = nn.Linear(config.embed_dim, width) if config.image_feature else None
        self.post_init()

    def _start_from(self, albef: AlbefModel) -> None:
        self.fusion_encoder.load_state_dict(albef.fusion_encoder.state_dict())
        if albef.mlm_head is not None:
            self.head.load_state_dict(albef.mlm_head.state_dict())
        if self.image_projection is not None:
            self.image_projection.load_state_dict(albef.image_projection.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the projection, which is not trained, stays without dropout."""
        super().train(mode)
        if self.image_projection is not None:
            self.image_projection.eval()
        return self

    @torch.no_grad()
    def image_features(self, image_states: Tensor) -> Tensor:
        """Image states [I, N, W] to L2-normalised features: ITC's [I, E], or the pooled states of a model without."""
        pooled = image_states[:, 0] if self.config.image_pooling == "cls" else image_states.mean(dim=1)
        if self.image_projection is not None:
            pooled = self.image_projection(pooled)
        return F.normalize(pooled, dim=-1)

    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """What the decoder layers read of images [I, N, W]."""
        if self.feature_state is not None:
            features = self.image_features(image_states) * math.sqrt(self.config.embed_dim)  # a length as of states
            state: Tensor = self.feature_state(features)  # [I, W]
            image_states = torch.cat([image_states, state[:, None]], dim=1)
        return self.fusion_encoder.image_keys_values(image_states)

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids [B, L] to states [B, L, D] of which each knows what is left of it alone.

        Args:
            input_ids: tokens, padded on the right.
            attention_mask: not needed, as no token sees the padding behind it.
        """
        states: Tensor = self.text_encoder.embeddings(input_ids)
        mask = causal_mask(input_ids.shape[1], 0, input_ids.device)
        for layer in self.text_encoder.layers:
            states = layer(states, mask)
        return states

    def read(self, text_states: Tensor, images: ImageKeysValues, image_rows: Tensor) -> Tensor:
        """The fusion layers from left to right: states [B, L, D] to states [B, L, D], which the head reads.

        Args:
            text_states: from `text_states`.
            images: from `image_keys_values`.
            image_rows: the image of each caption, [B] int64.
        """
        groups = RowGroups.of(image_rows, images.images)
        mask = causal_mask(text_states.shape[1], 0, text_states.device)
        states = text_states
        for layer, keys, values in zip(self.fusion_encoder.layers, images.keys, images.values, strict=True):
            states = layer(states, mask, keys, values, groups)
        return states

    def loss(
        self, batch: CaptionBatch, image_states: Tensor | None = None, text_states: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of each token after those that precede it, a scalar: the mean over all tokens of the captions.

        Args:
            batch: B captions of I images.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [B, L, D]; they replace the tokens that are read.
        """
        if text_states is None:
            text_states = self.text_states(batch.input_ids, batch.attention_mask)
        images = self.image_keys_values(self._image_states_of(batch, image_states))
        predicted = batch.attention_mask[:, 1:].bool()  # [B, L - 1]
        states = self.read(text_states[:, :-1], images, batch.image_rows)[predicted]  # [P, D]
        wanted = batch.input_ids[:, 1:][predicted]  # [P]
        tokens = self._tokens()  # [V]
        places = torch.searchsorted(tokens, wanted).clamp(max=len(tokens) - 1)
        known = tokens[places] == wanted  # of a caption with other tokens, these are not learned
        states, wanted = states[known], places[known]
        return F.cross_entropy(self.logits(states).float(), wanted, label_smoothing=self.config.label_smoothing)

    def logits(self, states: Tensor) -> Tensor:
        """What follows some states: [P, D] to logits over ``caption_tokens``, or over the vocabulary, [P, V]."""
        head = self.head
        if self.config.caption_tokens is None:
            whole: Tensor = head(states)
            return whole
        read = head.norm(head.activation(head.transform(states)))
        tokens = self._tokens()
        return F.linear(read, head.decoder.weight[tokens], head.decoder.bias[tokens])

    @torch.inference_mode()
    def generate_captions(
        self,
        image_states: Tensor,
        *,
        start: int,
        end: int,
        beams: int = 3,
        max_length: int = 20,
        min_length: int = 0,
        length_penalty: float = 1.0,
        banned: tuple[int, ...] = (),
    ) -> list[list[int]]:
        """Write a caption of each image by beam search; call it in evaluation mode.

        Args:
            image_states: [I, N, W].
            start: start token.
            end: end token.
            beams: K, beginnings that are kept of each caption.
            max_length: most tokens of a caption, its end included.
            min_length: fewest tokens of a caption, its end not counted.
            length_penalty: see `beam_search`.
            banned: tokens that no caption has.

        Returns:
            The tokens of each caption, without start and end.
        """
        images = self.image_keys_values(image_states)
        rows = torch.arange(images.images, device=self.device).repeat_interleave(beams)  # [I * K]
        groups = RowGroups.of(rows, images.images)
        past: Past = ()

        known = self._tokens()  # [V]; the search numbers tokens by their place here
        place = {token: number for number, token in enumerate(known.tolist())}

        def step(tokens: Tensor, parents: Tensor) -> Tensor:
            """Log-probabilities [I * K, V] of what follows."""
            nonlocal past
            past = tuple((keys[parents], values[parents]) for keys, values in past)
            states, past = self._next(known[tokens], past, images, groups)
            return self.logits(states[:, -1]).float().log_softmax(dim=1)

        written = beam_search(
            step,
            images.images,
            start=place[start],
            end=place[end],
            beams=beams,
            max_length=max_length,
            min_length=min_length,
            length_penalty=length_penalty,
            banned=[place[token] for token in banned if token in place],
            device=self.device,
        )
        return [known[row].tolist() for row in written]

    def _tokens(self) -> Tensor:
        """The tokens that captions are made of, ascending [V]."""
        if self.config.caption_tokens is None:
            return torch.arange(self.config.vocab_size, device=self.device)
        return torch.tensor(self.config.caption_tokens, device=self.device)

    def _next(self, tokens: Tensor, past: Past, images: ImageKeysValues, groups: RowGroups) -> tuple[Tensor, Past]:
        """One token [R] more: its states [R, 1, D], and the keys and values of all so far, to go on from."""
        tables = self.text_encoder.embeddings
        place = past[0][0].shape[1] if past else 0
        summed = tables.word_embeddings(tokens) + tables.position_embeddings.weight[place]
        states: Tensor = tables.norm(summed + tables.token_type_embeddings.weight[0])[:, None]
        so_far: list[tuple[Tensor, Tensor]] = []

        def attended(block: AttentionBlock, states: Tensor) -> Tensor:
            """Self-attention to this token and all before it."""
            keys, values = block.keys_values(states)
            if past:
                before = past[len(so_far)]
                keys, values = torch.cat([before[0], keys], dim=1), torch.cat([before[1], values], dim=1)
            so_far.append((keys, values))
            out: Tensor = block(states, keys, values)
            return out

        for module in self.text_encoder.layers:
            text = cast(TextLayer, module)
            states = text.feed_forward(attended(text.self_attention, states))
        for module, keys, values in zip(self.fusion_encoder.layers, images.keys, images.values, strict=True):
            fusion = cast(FusionLayer, module)
            states = fusion.cross_attention(attended(fusion.self_attention, states), keys, values, groups=groups)
            states = fusion.feed_forward(states)
        return states, tuple(so_far)

    def _image_states_of(self, batch: CaptionBatch, image_states: Tensor | None) -> Tensor:
        if image_states is not None:
            return image_states
        assert batch.pixel_values is not None, "a batch without pixels needs image states"
        return self.image_states(batch.pixel_values)
