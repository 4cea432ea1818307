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
        drawn = draw_assignment(~same_pair(batch.image_id, batch.caption_key), generator)
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
