"""Reasoning about two images (NLVR2): is a statement about them true?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truepair.data.collate import PairBatch
from truepair.data.nlvr2_batch import Nlvr2Batch
from truepair.models.albef import AlbefModel
from truepair.models.downstream import DownstreamModel
from truepair.models.two_image_fusion import Nlvr2Config, TwoImageFusion
from truepair.objectives.assignment import draw_assignment
from truepair.relations.identity import same_pair


class Nlvr2Model(DownstreamModel):
    """Two cross-attentions in each fusion layer, merged, and a classifier on [CLS], as in SRCL and BLIP.

    Methods take image states, so that those of a frozen encoder may come from a cache.
    """

    config_class = Nlvr2Config
    config: Nlvr2Config
    base_model_prefix = "nlvr2"

    def __init__(self, config: Nlvr2Config) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.fusion_encoder = TwoImageFusion(config, self.image_encoder.width)
        self.classifier = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.assignment = nn.Linear(width, 3) if config.assignment_head else None
        self.post_init()

    def _start_from(self, albef: AlbefModel) -> None:
        self.fusion_encoder.start_from(albef.fusion_encoder)

    def fuse(self, image_states: Tensor, input_ids: Tensor, attention_mask: Tensor, image_rows: Tensor) -> Tensor:
        """Fused [CLS] states [B, D].

        Args:
            image_states: of I images [I, N, W].
            input_ids: tokens of the texts [B, L].
            attention_mask: 1 for tokens and 0 for padding, [B, L].
            image_rows: left and right image of each text, [B, 2] int64.
        """
        states = self.text_states(input_ids, attention_mask)
        fused: Tensor = self.fusion_encoder(states, attention_mask, image_states, image_rows)
        return fused

    def judge(self, batch: Nlvr2Batch, image_states: Tensor | None = None) -> Tensor:
        """Logits [B, 2] of a batch of statements (index 1: true); ``image_states`` [I, N, W] replace its pixels."""
        states = self._states_of(batch.pixel_values, image_states)
        fused = self.fuse(states, batch.input_ids, batch.attention_mask, batch.image_rows)
        logits: Tensor = self.classifier(fused)
        return logits

    def loss(self, batch: Nlvr2Batch, image_states: Tensor | None = None) -> Tensor:
        """Cross-entropy of a batch of statements whose truth is known, a scalar."""
        return F.cross_entropy(self.judge(batch, image_states).float(), batch.labels)

    @torch.inference_mode()
    def predict(self, batch: Nlvr2Batch, image_states: Tensor | None = None) -> Tensor:
        """Probability that each statement is true, float32 [B]; call it in evaluation mode."""
        return self.judge(batch, image_states).float().softmax(dim=1)[:, 1]

    def assignment_loss(
        self, batch: PairBatch, generator: torch.Generator, image_states: Tensor | None = None
    ) -> Tensor:
        """Text assignment on a batch of pre-training pairs: cross-entropy over first image, second image, neither.

        Images with the id of a caption's own, or with its text, are never the wrong ones.

        Args:
            batch: B pairs.
            generator: draws the images; on the batch's device.
            image_states: [B, N, W]; they replace the pixels.
        """
        assert self.assignment is not None, "text assignment needs assignment_head: true"
        states = self._states_of(batch.pixel_values, image_states)
        drawn = draw_assignment(~same_pair(batch.image_id, batch.caption_key), generator)
        if not len(drawn.texts):  # every image may belong to every caption
            return states.sum() * 0.0
        mask = batch.attention_mask[drawn.texts]
        fused = self.fuse(states, batch.input_ids[drawn.texts], mask, drawn.images)  # [R, D]
        return F.cross_entropy(self.assignment(fused).float(), drawn.labels)

    def _states_of(self, pixel_values: Tensor | None, image_states: Tensor | None) -> Tensor:
        if image_states is not None:
            return image_states
        assert pixel_values is not None, "a batch without pixels needs image states"
        return self.image_states(pixel_values)
